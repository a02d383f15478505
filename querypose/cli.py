"""The command `querypose`: the scripts of `tools/` under one name."""

import sys
from pathlib import Path

from querypose.errors import UserError, exit_on_user_error

TOOLS = Path(__file__).resolve().parents[1] / "tools"
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
"""Scripts and descriptions by command."""


def usage() -> str:
    """What `querypose --help` prints."""
    lines = [f"  {command:10} {description}" for command, (_, description) in COMMANDS.items()]
    return "\n".join(["usage: querypose COMMAND ...", "", *lines, "", "querypose COMMAND --help lists the flags."])


def main() -> None:
    """Run a command; its flags and exit codes are the script's."""
    command, arguments = (sys.argv[1] if len(sys.argv) > 1 else "--help"), sys.argv[2:]
    if command in ("-h", "--help"):
        print(usage())
        return
    with exit_on_user_error():
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
