"""The documentation: links, paths, commands, flags and keys exist, the site builds, examples print what they say."""

import contextlib
import doctest
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.config import get_cfg
from load_tool import load_tool
from refusals import ROOT, tool

from querypose.config import add_querypose_config
from querypose.config_checks import check_config, leaves

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "datasets/README.md", ROOT / "weights/README.md"])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

FENCED = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
KEY = re.compile(r"[A-Z][A-Z0-9_]*(?:\.[A-Z][A-Z0-9_]*)+")
FILE = re.compile(r"(?<![\w/.-])(?:configs|docs|querypose|tests|tools)/[\w./{},*-]*\.(?:\w+|\{[\w,]+\})")
TOOL = re.compile(r"(?:^|[ /])tools/(\w+)\.py( .)?")


@pytest.fixture(params=PAGES, ids=NAMES)
def page(request) -> Path:
    return request.param


@pytest.fixture
def text(page) -> str:
    return page.read_text(encoding="utf-8")


def prose(text: str) -> str:
    """A page without its code blocks."""
    return FENCED.sub("", text)


def inline_code(text: str) -> list[str]:
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(text))]


def shell_blocks(text: str) -> list[str]:
    return [block for language, block in FENCED.findall(text) if language in ("sh", "bash")]


@cache
def slugs(page: Path) -> set[str]:
    """Anchors of a page's headings on GitHub."""
    titles = re.findall(r"^#+ (.+)$", prose(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_and_anchors_exist(page, text):
    wrong = []
    for target in LINK.findall(prose(text)):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in slugs(file)):
            wrong.append(target)
    assert wrong == []


def expand(name: str) -> list[str]:
    before, brace, rest = name.partition("{")
    choices, _, after = rest.partition("}")
    return [path for one in choices.split(",") for path in expand(before + one.strip() + after)] if brace else [name]


def test_files_in_code_exist(text):
    """Paths of the repository in code, with `{a,b}` and `*` as in a shell."""
    quoted = " ".join(inline_code(text) + [block for _, block in FENCED.findall(text)])
    assert [path for name in FILE.findall(quoted) for path in expand(name) if not any(ROOT.glob(path))] == []


def config():
    cfg = get_cfg()
    add_querypose_config(cfg)
    return cfg


@cache
def flags_of(name: str) -> set[str]:
    """The flags in the output of `tools/<name>.py --help`."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), pytest.raises(SystemExit) as exit_:
        tool(name, "--help")()
    assert exit_.value.code == 0
    return set(re.findall(r"--[a-z][a-z0-9-]*", output.getvalue()))


def check_command(command: str) -> list[str]:
    """Problems of a command that runs a tool, or make."""
    parts = shlex.split(command, comments=True)
    if parts[:1] == ["make"]:
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return [f"make has no {part}" for part in parts[1:] if part.isalpha() and part not in targets]
    if not (found := TOOL.search(command)):
        return []
    start = next(i for i, part in enumerate(parts) if re.fullmatch(r"(?:\S*/)?tools/\w+\.py", part))
    name, arguments = found[1], parts[start + 1 :]
    if not (ROOT / "tools" / f"{name}.py").is_file():
        return [f"no tool {name}"]
    flags = [flag.split("=")[0] for flag in arguments if flag.startswith("--")]
    wrong = [f"{name} has no {flag}" for flag in flags if flag not in flags_of(name)]

    cfg = config()
    files = [part for part in arguments if re.fullmatch(r"configs/[\w./-]+\.yaml", part)]
    for file in files[:1]:
        cfg.merge_from_file(str(ROOT / file))
    opts = [part for i, key in enumerate(arguments) if KEY.fullmatch(key) for part in arguments[i : i + 2]]
    try:
        cfg.merge_from_list(opts)
        if opts and files and "QueryAttention" not in opts:  # registered by the example of docs/EXTENDING.md
            check_config(cfg)
    except (KeyError, ValueError, AssertionError) as error:
        wrong.append(f"{opts}: {error}")
    return wrong


def test_commands_are_known(text):
    """Tools, flags, targets of make, configs, and keys with valid values."""
    lines = [line for block in shell_blocks(text) for line in re.sub(r"\\\n\s*", "", block).splitlines()]
    lines += [code for code in inline_code(text) if (found := TOOL.search(code)) and found[2]]
    assert [problem for line in lines for problem in check_command(line)] == []


def test_check_command_reports_mistakes():
    assert check_command("python tools/plot_training.py run --color red") == ["plot_training has no --color"]
    command = "python tools/train_net.py --config-file configs/querypose_R50.yaml MODEL.QUERYPOSE.VARIANT"
    assert check_command(f"{command} light") == [] and "valid are" in check_command(f"{command} heavy")[0]


def test_config_keys_exist(text):
    """Dotted keys in the text, complete or by their last parts (`LOSS.L1_WEIGHT`)."""
    dotted = " ".join(f".{key}." for key in [*dict(leaves(config())), "MODEL.TIMM.OPTIONS"])
    assert [key for code in inline_code(text) for key in KEY.findall(code) if f".{key}." not in dotted] == []


def test_shell_scripts_parse(text):
    subprocess.run(["bash", "-n"], input="\n".join(shell_blocks(text)), text=True, check=True)


def test_every_page_is_in_the_navigation():
    sections = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    entries = [entry for section in sections for entries in section.values() for entry in entries]
    listed = [entry if isinstance(entry, str) else next(iter(entry.values())) for entry in entries]
    assert sorted(listed) == sorted(name.removeprefix("docs/") for name in NAMES if name != "README.md")


def test_the_site_builds_and_loads_nothing_from_other_servers(tmp_path):
    """As `make docs` does: links and anchors of the site, pages outside of docs/ included."""
    pytest.importorskip("material", reason="needs mkdocs-material: pip install 'querypose[docs]', or make docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, check=True)
    loads = r"<(?:script|img|link|iframe)\b[^>]*(?:src|href)=\"?(?:https?:)?//|(?:@import|url\()\s*[\"']?(?:https?:)?//"
    for file in [*tmp_path.rglob("*.html"), *tmp_path.rglob("*.css")]:
        assert not re.search(loads, file.read_text(encoding="utf-8")), file
    # links to pages and files outside of docs/
    assert (tmp_path / "datasets" / "index.html").is_file() and (tmp_path / "tools" / "detectron2_patches.py").is_file()


def test_lists_and_tables_begin_after_an_empty_line(text):
    """The site renders them only then."""
    begins = r"(?m)^(?!(?:[-*] |\d+\. |\||  |#|\s*$)).+\n((?:[-*] |\d+\. |\|).*)"
    assert re.findall(begins, prose(text)) == []


EXAMPLES = [page for page in PAGES if ">>> " in page.read_text()]


@pytest.mark.parametrize("source", ["querypose.predictor", *map(str, EXAMPLES)])
def test_examples_print_what_they_say(monkeypatch, source):
    """Paths of the examples are the repository's."""
    monkeypatch.chdir(ROOT)
    options = {"optionflags": doctest.NORMALIZE_WHITESPACE}
    with torch.enable_grad():  # one that turns gradients off and fails leaves them on
        if os.path.isfile(source):
            result = doctest.testfile(source, module_relative=False, **options)
        else:
            result = doctest.testmod(importlib.import_module(source), **options)
    assert result.attempted > 0 and result.failed == 0


def test_the_reference_of_keys_is_written_from_the_config():
    page = (ROOT / "docs/CONFIG.md").read_text(encoding="utf-8")
    expected = load_tool("make_config_reference").config_reference_page()
    assert page == expected, "run: python tools/make_config_reference.py --output docs/CONFIG.md"
    assert "| `SOLVER.AMP.ENABLED` | `False` |" in page
    assert "node.PART_DIM = 128  # dp, width of part queries (Table 2c)\n" in page
    assert "| `MODEL.QUERYPOSE.VARIANT` | `full`, `branched`, `light` |" in page
