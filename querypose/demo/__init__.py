"""Persons in files, folders, streams and cameras, as visualizations, videos and tables."""

from querypose.demo.inputs import find_inputs, frames_in_order, prepare_output
from querypose.demo.run import Demo

__all__ = ["Demo", "find_inputs", "frames_in_order", "prepare_output"]
