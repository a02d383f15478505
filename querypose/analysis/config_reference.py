"""docs/CONFIG.md: every key of `querypose.config` with its default, its valid values and the comment above it."""

import ast
import inspect
import io
import re
import tokenize
from dataclasses import dataclass

from detectron2.config import CfgNode, get_cfg

from querypose import config
from querypose.config_checks import valid_values

_DETECTRON2_PAGE = "https://detectron2.readthedocs.io/en/latest/modules/config.html"
COMMAND = "python tools/make_config_reference.py --output docs/CONFIG.md"

# the functions of querypose.config that add keys, and the headings above what they add
_SECTIONS = {
    "_add_model_keys": "Model",
    "_add_backbone_keys": "Backbones",
    "_add_solver_keys": "Training",
    "_add_data_keys": "Images, data sets and evaluation",
}

# keys of Detectron2 that a run of QueryPose often sets; their defaults are read, not written here
_DETECTRON2_KEYS = {
    "MODEL.WEIGHTS": "what a training starts from, or what is evaluated: a file, `detectron2://..`, `timm://..`",
    "MODEL.DEVICE": '"cuda", "cpu"; without a GPU "cuda" becomes "cpu"',
    "MODEL.BACKBONE.NAME": "one of the backbones below, or `build_resnet_fpn_backbone`",
    "MODEL.BACKBONE.FREEZE_AT": "Detectron2's ResNet: how many of its first stages stay as they are",
    "DATASETS.TRAIN": "names of registered data sets, `FILE.json` or `FILE.json@IMAGE_FOLDER`, in a tuple",
    "DATASETS.TEST": "the same, for evaluation",
    "DATALOADER.NUM_WORKERS": "processes that read images, for every GPU",
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": "leave out images without any person in training",
    "INPUT.RANDOM_FLIP": '"horizontal" or "none"',
    "INPUT.MIN_SIZE_TEST": "short side of an image in inference, in pixels",
    "INPUT.MAX_SIZE_TEST": "most that its long side may have",
    "SOLVER.MAX_ITER": "iterations of a training",
    "SOLVER.STEPS": "iterations after which the learning rate falls to `SOLVER.GAMMA` times what it was",
    "SOLVER.LR_SCHEDULER_NAME": '"WarmupMultiStepLR", "WarmupCosineLR"',
    "SOLVER.REFERENCE_WORLD_SIZE": "GPUs that batch and schedule are meant for; with another number Detectron2 scales "
    "batch, learning rate and schedule; 0 scales nothing",
    "SOLVER.CHECKPOINT_PERIOD": "iterations between checkpoints",
    "SOLVER.AMP.ENABLED": "train in bfloat16",
    "TEST.EVAL_PERIOD": "iterations between evaluations; 0 evaluates at the end only",
    "TEST.DETECTIONS_PER_IMAGE": "most persons that an image returns",
    "TEST.KEYPOINT_OKS_SIGMAS": "OKS sigmas, one for each keypoint, in place of the data set's",
    "OUTPUT_DIR": "folder for checkpoints, logs, `config.yaml` and results",
    "SEED": "of the random numbers; -1 takes another one in every run",
}

_KEY = re.compile(r"(?<![`\w])[A-Z][A-Z0-9]*(?:[._][A-Z0-9]+)+(?![`\w])")


@dataclass
class Keys:
    """Keys that stand under one comment: dotted names in their order, and the comment as one text."""

    section: str
    names: list[str]
    comment: str


@dataclass
class Note:
    """A comment of config.py that belongs to no key: its lines."""

    section: str
    lines: list[str]


def read_config_source(source: str | None = None) -> list[Keys | Note]:
    """What the functions of `querypose.config` that add keys say, in their order.

    A comment belongs to the assignments right below it, up to an empty line or another comment; one that an empty
    line follows is a note. Keys without a comment have an empty one.
    """
    source = inspect.getsource(config) if source is None else source
    comments = {
        token.start[0]: token.string.removeprefix("#").removeprefix(" ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip()
    }
    functions = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    found: list[Keys | Note] = []
    for name, section in _SECTIONS.items():
        found += _read_function(functions[name], section, comments)
    return found


def _read_function(function: ast.FunctionDef, section: str, comments: dict[int, str]) -> list[Keys | Note]:
    aliases = {"cfg": ""}
    found: list[Keys | Note] = []
    blocks = _blocks(sorted(n for n in comments if function.lineno < n <= (function.end_lineno or 0)))
    before = None  # the last line of the statement before
    for statement in function.body:
        while blocks and blocks[0][1] < statement.lineno - 1:
            first, last = blocks.pop(0)
            found.append(Note(section, [comments[line] for line in range(first, last + 1)]))
        comment = None
        if blocks and blocks[0][1] == statement.lineno - 1:
            first, last = blocks.pop(0)
            comment = " ".join(comments[line].strip() for line in range(first, last + 1))
        names = _assigned(statement, aliases)
        if names:
            if comment is None and before == statement.lineno - 1 and found and isinstance(found[-1], Keys):
                found[-1].names += names
            else:
                found.append(Keys(section, names, comment or ""))
        elif comment:  # above a node without keys: it goes with the keys that follow
            found.append(Keys(section, [], comment))
        before = statement.end_lineno
    return [item for item in found if isinstance(item, Note) or item.names]


def _blocks(lines: list[int]) -> list[tuple[int, int]]:
    """First and last line of every run of lines without a gap."""
    blocks: list[tuple[int, int]] = []
    for line in lines:
        if blocks and blocks[-1][1] == line - 1:
            blocks[-1] = (blocks[-1][0], line)
        else:
            blocks.append((line, line))
    return blocks


def _assigned(statement: ast.stmt, aliases: dict[str, str]) -> list[str]:
    """The dotted keys that an assignment sets; of `CfgNode({..})` those of its dict. Learns names of nodes."""
    if not isinstance(statement, ast.Assign):
        return []
    value, key = statement.value, None
    for target in statement.targets:
        if isinstance(target, ast.Attribute):
            root, _, rest = ast.unparse(target).partition(".")
            key = f"{aliases[root]}.{rest}".lstrip(".")
    for target in statement.targets:
        if isinstance(target, ast.Name) and key is not None:
            aliases[target.id] = key
    if key is None:
        return []
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "CfgNode":
        if not value.args or not isinstance(value.args[0], ast.Dict):
            return [key] if value.keywords else []  # a node for any key is a key itself
        return [f"{key}.{ast.literal_eval(name)}" for name in value.args[0].keys if name is not None]
    return [key]


def flatten(cfg: CfgNode, prefix: str = "") -> dict[str, object]:
    """Every value of a config by its dotted key; an empty node is a value."""
    flat: dict[str, object] = {}
    for name, value in cfg.items():
        if isinstance(value, CfgNode) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def config_reference_page() -> str:
    """The text of docs/CONFIG.md."""
    cfg = get_cfg()
    config.add_querypose_config(cfg)
    values, valid = flatten(cfg), valid_values()
    lines = [
        "# Configuration reference",
        f"Written by `{COMMAND}` from the comments of `querypose/config.py`; do not edit it, run the tool again.",
        "",
        "A config is a YAML file (`--config-file`) over these defaults; `_BASE_` names the file that it starts from; "
        "`KEY VALUE` pairs at the end of a command override both. Unknown keys and values that cannot be are refused "
        f"with one sentence. All keys of [Detectron2's reference]({_DETECTRON2_PAGE}) exist too; those that QueryPose "
        "does not read, such as `MODEL.RPN`'s, are without effect.",
        "",
        "## Detectron2's keys that a run often sets",
        "",
        *_table([([name], text) for name, text in _DETECTRON2_KEYS.items()], values, {}),
    ]
    section: str | None = None
    rows: list[tuple[list[str], str]] = []
    for item in [*read_config_source(), None]:
        new_section = item is not None and item.section != section
        if rows and (item is None or new_section or isinstance(item, Note)):
            lines += ["", *_table(rows, values, valid)]
            rows = []
        if item is None:
            break
        if new_section:
            section = item.section
            lines += ["", f"## {section}"]
        if isinstance(item, Note):
            lines += ["", *_markdown(item.lines)]
        else:
            rows.append((item.names, item.comment))
    return "\n".join(lines) + "\n"


def _table(rows: list[tuple[list[str], str]], values: dict, valid: dict) -> list[str]:
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for names, comment in rows:
        keys = "<br>".join(f"`{name}`" for name in names)
        defaults = "<br>".join(f"`{_text(values[name])}`" for name in names)
        meaning = _with_marks(comment)
        for name in names:
            if name in valid:
                own = "" if len(names) == 1 else f"`{name.rpartition('.')[2]}`: "
                meaning += f"<br>{own}one of " + ", ".join(f"`{value}`" for value in valid[name])
        lines.append(f"| {keys} | {defaults} | {meaning} |")
    return lines


def _text(value: object) -> str:
    """A default as one would write it in a YAML file."""
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple | list):
        left, right = "()" if isinstance(value, tuple) else "[]"
        comma = "," if left == "(" and len(value) == 1 else ""
        return left + ", ".join(_text(one) for one in value) + comma + right
    return "{}" if isinstance(value, CfgNode) else str(value)


def _with_marks(text: str) -> str:
    """Markdown of a comment: keys as code, pages of docs/ as links, nothing that would break a table."""
    text = text.replace("|", "\\|").replace("<", "&lt;")
    text = re.sub(r"\bdocs/(\w+\.md)", r"[\1](\1)", text)
    return _KEY.sub(lambda match: f"`{match[0]}`", text)


def _markdown(lines: list[str]) -> list[str]:
    """A note's lines with an empty one where a list begins, as some readers of Markdown need."""
    result: list[str] = []
    for line in lines:
        if line.startswith("- ") and result and not result[-1].startswith(("- ", "  ")):
            result.append("")
        result.append(_with_marks(line))
    return result
