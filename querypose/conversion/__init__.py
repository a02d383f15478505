"""Checkpoints of others, made into ours."""

from querypose.conversion.authors import convert_authors_checkpoint, convert_authors_weights

__all__ = ["convert_authors_checkpoint", "convert_authors_weights"]
