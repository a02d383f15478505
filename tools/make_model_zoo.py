"""Write docs/MODEL_ZOO.md anew: python tools/make_model_zoo.py --output docs/MODEL_ZOO.md

Costs are counted from shapes: a minute on a CPU, no weights and no data.
"""

import argparse
from pathlib import Path

from querypose.analysis.model_zoo import model_zoo_page
from querypose.atomic_io import check_output_file
from querypose.errors import UserError, exit_on_user_error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the page to write; an older one is replaced")
    parser.add_argument("--results", type=Path, help="folder of metrics, CONFIG.json of tools/evaluate_results.py")
    args = parser.parse_args()
    check_output_file(args.output, replaces=True)
    if args.results and not args.results.is_dir():
        raise UserError(f"--results {args.results} is not a folder; give a folder of metrics, or omit the option")
    args.output.write_text(model_zoo_page(args.results), encoding="utf-8")
    print(f"wrote {args.output}")


if __name__ == "__main__":
    with exit_on_user_error():
        main()
