"""Visualizations of poses, attention, data sets and training runs."""
