"""Persons in files, folders, streams and cameras, as visualizations, videos and tables."""
