"""Pictures of poses and of training runs."""

from querypose.visualization.contact_sheet import contact_sheet
from querypose.visualization.draw_poses import Poses, draw_poses
from querypose.visualization.plots import plot_training

__all__ = ["Poses", "contact_sheet", "draw_poses", "plot_training"]
