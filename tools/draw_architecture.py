"""Draw the model as boxes and arrows: python tools/draw_architecture.py --output docs/images/architecture.svg"""

import argparse
from pathlib import Path

from querypose.errors import exit_on_user_error
from querypose.visualization.architecture import draw_architecture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="an SVG, PNG or PDF file; an older one is replaced")
    args = parser.parse_args()
    print(f"wrote {draw_architecture(args.output)}")


if __name__ == "__main__":
    with exit_on_user_error():
        main()
