"""The command `querypose`: the scripts of `tools/` under one name."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from querypose.errors import UserError, exit_on_user_error

TOOLS = Path(__file__).resolve().parents[1] / "tools"
# scripts and descriptions by command
COMMANDS = {
    "predict": ("demo", "find persons in images, videos or a camera: querypose predict photo.jpg"),
    "track": ("demo", "follow persons through a video: querypose track match.mp4 --smooth"),
    "train": ("train_net", "train: querypose train --config-file configs/querypose_R50.yaml --num-gpus 8"),
    "evaluate": ("test_net", "evaluate: querypose evaluate --config-file CONFIG MODEL.WEIGHTS model.pth"),
    "export": ("export_onnx", "write a model as ONNX"),
    "convert": ("convert_weights", "convert pretrained weights"),
    "check": ("check_dataset", "check the annotations and images of a data set"),
    "benchmark": ("benchmark", "time a model's parts"),
}

_CONFIG_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Za-z0-9_]+)+")


def run_tool(main: Callable[[], int | None]) -> None:
    """Call a tool's `main` inside `exit_on_user_error`, and exit with the code that it returns, if any."""
    with exit_on_user_error():
        if code := main():
            sys.exit(code)


def tool_parser(description: str, *, model: bool = False) -> argparse.ArgumentParser:
    """The parser of a tool; model: with a config, by default that of the small model, and overrides of it."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if model:
        parser.add_argument("--config-file", metavar="FILE", help="the model's config (default: the small model)")
        parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides of the config")
    return parser


def split_overrides(paths: Sequence[str], opts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Paths and overrides of a command line, whose KEY VALUE pairs right behind the paths were parsed as paths."""
    from querypose.demo.inputs import VIDEO_ENDINGS  # slow to import
    from querypose.image_io import image_endings

    media = (*image_endings(), *VIDEO_ENDINGS, ".txt", ".parquet")  # of an absent IMG_1.JPG, for example
    for i, path in enumerate(paths):
        if _CONFIG_KEY.fullmatch(path) and not path.lower().endswith(media) and not os.path.exists(path):
            return list(paths[:i]), [*paths[i:], *opts]
    return list(paths), list(opts)


def main() -> None:
    """Run a command; its flags and exit codes are the script's."""
    command, arguments = (sys.argv[1] if len(sys.argv) > 1 else "--help"), sys.argv[2:]
    with exit_on_user_error():
        if command in ("-h", "--help"):
            lines = [f"  {name:10} {description}" for name, (_, description) in COMMANDS.items()]
            print("usage: querypose COMMAND ...", "", *lines, "", "querypose COMMAND --help lists the flags.", sep="\n")
            return
        if command not in COMMANDS:
            raise UserError(f"there is no command {command}; give one of {', '.join(COMMANDS)}")
        script = TOOLS / f"{COMMANDS[command][0]}.py"
        if not script.is_file():
            raise UserError(f"there is no {script}: install QueryPose from its repository with pip install -e .")
    if command in ("predict", "track") and arguments and not arguments[0].startswith("-"):
        arguments.insert(0, "--input")
    if command == "track":
        arguments.insert(0, "--track")
    sys.argv = [f"querypose {command}", *arguments]
    # runpy would put the script's own name into its usage
    exec(compile(script.read_text(), str(script), "exec"), {"__name__": "__main__", "__file__": str(script)})
