"""A web page that shows the poses in a picture, and the server behind it."""

from querypose.web.analysis import analyze
from querypose.web.server import PoseServer

__all__ = ["PoseServer", "analyze"]
