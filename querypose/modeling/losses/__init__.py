"""Matching and the losses of every stage."""
