"""A web page on Gradio that shows the poses in uploaded images. It runs offline: no telemetry, no external fonts."""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from querypose.errors import UserError
from querypose.image_io import read_image_rgb
from querypose.predictor import PosePredictor, check_attention
from querypose.structures import SCORE_THRESHOLD, Persons
from querypose.visualization.draw_poses import draw_poses, overlay_attention, part_names

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read at its import; else all users share one folder
os.environ["GRADIO_TEMP_DIR"] = os.environ.get("GRADIO_TEMP_DIR") or tempfile.mkdtemp(prefix="querypose_")
try:
    import gradio as gr
except ImportError:
    raise UserError("the web page needs Gradio, QueryPose's extra `web`: pip install 'gradio>=6'") from None

MAX_UPLOAD = 20 * 2**20  # bytes of a file
MAX_SESSIONS = 64  # visitors whose last result is kept
KEEP_SECONDS = 3600  # how long uploaded files and results are kept
MAX_PERSONS = 30
MIN_SCORE = 0.01
MAX_SIDE = 1600  # pixels of the image that is shown
POSES, ALL_PARTS = "poses only", "attention of all parts"
COLUMNS = ["person", "score", "mean keypoint confidence", "x0", "y0", "x1", "y1"]

Found = tuple[str, Persons]
"""An uploaded file and the persons in it, with the fields of `PosePredictor.with_attention` if the model has them."""


@contextlib.contextmanager
def _errors_on_page(file: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        message = str(error).replace(file, Path(file).name)  # without the folder of uploaded files
        raise gr.Error(message, duration=None, print_exception=False) from error


def find_poses(find_persons: Callable[[np.ndarray], Persons], file: str) -> Found:
    """The persons in an uploaded file; a `UserError` becomes a message on the page."""
    with _errors_on_page(file):
        return file, find_persons(read_image_rgb(file))[:MAX_PERSONS]


def show_poses(
    views: Sequence[str], found: Found | None, score: float, keypoint: float, boxes: bool, view: str
) -> tuple[np.ndarray | None, list[list[float]], gr.DownloadButton]:
    """Draw what was found as the controls say.

    views: `POSES`, `ALL_PARTS`, then a name for each part; `view` is one of them. score, keypoint: thresholds.

    Returns the image (H, W, 3) uint8 RGB, the rows of the table and the button that downloads the COCO results.
    """
    if found is None:
        return None, [], gr.DownloadButton(interactive=False)
    file, persons = found
    persons = persons[persons.scores >= score]
    coco_file = Path(file).with_name(f"{Path(file).stem}_poses_{score:.2f}.json")
    coco_file.write_text(json.dumps(persons.to_coco(image_id=1)))
    confidences = persons.pred_keypoints[..., 2].mean(dim=1)
    values = np.column_stack([persons.scores, confidences, persons.pred_boxes.tensor]).astype(float)
    rows = [[i, *np.round(row[:2], 3).tolist(), *np.round(row[2:], 1).tolist()] for i, row in enumerate(values, 1)]
    with _errors_on_page(file):
        image = read_image_rgb(file)
    if view != POSES:
        parts = slice(None) if view == ALL_PARTS else [list(views).index(view) - 2]
        image = overlay_attention(image, persons.part_attention[:, parts], persons.attention_boxes.tensor)
    scale = MAX_SIDE / max(image.shape) if max(image.shape) > MAX_SIDE else None
    options: dict[str, Any] = {"show_boxes": boxes, "show_scores": boxes, "scale": scale, "score_threshold": score}
    image = draw_poses(image, persons, persons.skeleton, keypoint_threshold=keypoint, **options)
    return image, rows, gr.DownloadButton(value=coco_file, interactive=True)


def build_page(predictor: PosePredictor) -> gr.Blocks:
    """Build the page of a predictor, whose own score threshold is at most `MIN_SCORE`; `serve` launches it."""
    find_persons: Callable[[np.ndarray], Persons] = predictor
    views = [POSES]
    with contextlib.suppress(UserError):
        check_attention(predictor.cfg)
        find_persons = predictor.with_attention
        views += [ALL_PARTS, *part_names(predictor.cfg, predictor.skeleton)]

    with gr.Blocks(title="QueryPose", analytics_enabled=False, delete_cache=(KEEP_SECONDS, KEEP_SECONDS)) as page:
        found = gr.State(time_to_live=KEEP_SECONDS)
        gr.Markdown("# QueryPose\nPersons and their keypoints in an image. Left is blue, right is orange.")
        with gr.Row():
            with gr.Column(scale=3):
                image = gr.Image(label="Poses", format="png", interactive=False, buttons=["download", "fullscreen"])
                table = gr.Dataframe(headers=COLUMNS, label="Persons", elem_id="persons", interactive=False)
            with gr.Column(scale=1, min_width=280):
                file = gr.File(label="Image", elem_id="upload")
                controls: list[Any] = [
                    gr.Slider(MIN_SCORE, 1, SCORE_THRESHOLD, step=0.01, label="Score threshold", elem_id="score"),
                    gr.Slider(0, 1, 0.5, step=0.01, label="Confidence threshold of keypoints"),
                    gr.Checkbox(True, label="Boxes and scores"),
                    gr.Dropdown(views, value=POSES, label="Attention overlay", elem_id="attention"),
                ]
                download = gr.DownloadButton("Download COCO results", elem_id="download", interactive=False)
        shown: dict[str, Any] = {"inputs": [found, *controls], "outputs": [image, table, download]}
        options: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}

        find, show = partial(find_poses, find_persons), partial(show_poses, views)
        file.upload(find, file, found, **options).success(show, **shown, **options)
        file.clear(lambda: None, outputs=found, **options).success(show, **shown, **options)
        for control in controls:
            control.change(show, **shown, trigger_mode="always_last", **options)
    return page


def serve(predictor: PosePredictor, host: str = "127.0.0.1", port: int = 0) -> gr.Blocks:
    """Launch the page in threads of its own; `block_thread` of what is returned waits for Ctrl-C.

    port: 0 takes the first free one from 7860. Raises `UserError` for an address that cannot be listened on.
    """
    page = build_page(predictor).queue(max_size=16, default_concurrency_limit=1)  # refuses more waiting requests
    options: dict[str, Any] = {"server_name": host, "server_port": port or None, "quiet": True, "footer_links": []}
    options |= {"share": False, "ssr_mode": False, "mcp_server": False, "prevent_thread_lock": True}
    options |= {"max_file_size": MAX_UPLOAD, "state_session_capacity": MAX_SESSIONS}
    theme = gr.themes.Default(font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace"))
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = f"localhost,127.0.0.1,{host}"  # Gradio calls its own page
    try:
        page.launch(theme=theme, **options)
    except (OSError, OverflowError) as error:
        reason = "the address is not valid or in use; choose another --host or --port"
        raise UserError(f"cannot listen on {host}:{port}: {reason}") from error
    return page
