"""Checkpoints of others made into ours, and ours made fit to be passed on."""

from querypose.conversion.authors import convert_authors_checkpoint, convert_authors_weights
from querypose.conversion.publish import publishable_weights

__all__ = ["convert_authors_checkpoint", "convert_authors_weights", "publishable_weights"]
