"""Write docs/CONFIG.md anew: python tools/make_config_reference.py --output docs/CONFIG.md"""

import argparse
from pathlib import Path

from querypose.analysis.config_reference import config_reference_page
from querypose.atomic_io import check_output_file
from querypose.errors import exit_on_user_error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="the page to write; an older one is replaced")
    args = parser.parse_args()
    check_output_file(args.output, replaces=True)
    args.output.write_text(config_reference_page(), encoding="utf-8")
    print(f"wrote {args.output}")


if __name__ == "__main__":
    with exit_on_user_error():
        main()
