"""From files, folders and cameras to pictures, videos and tables of the persons in them."""

from querypose.demo.drawing import Drawing, check_attention
from querypose.demo.inputs import find_images, image_ids, output_names, prepare_output
from querypose.demo.run import Demo

__all__ = ["Demo", "Drawing", "check_attention", "find_images", "image_ids", "output_names", "prepare_output"]
