"""Visualizations of poses, attention, data sets and training runs."""

from querypose.visualization.attention import overlay_attention, part_names, person_panels
from querypose.visualization.contact_sheet import contact_sheet
from querypose.visualization.draw_poses import draw_poses
from querypose.visualization.plots import plot_dataset, plot_keypoint_errors
from querypose.visualization.poses import Poses
from querypose.visualization.training_plot import plot_training

__all__ = [
    "Poses", "contact_sheet", "draw_poses", "overlay_attention", "part_names", "person_panels", "plot_dataset",
    "plot_keypoint_errors", "plot_training",
]  # fmt: skip
