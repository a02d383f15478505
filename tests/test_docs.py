"""The documentation: links, paths, commands, flags and config keys exist, and the site builds."""

import contextlib
import io
import re
import runpy
import shlex
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml
from detectron2.config import get_cfg

from querypose.config import add_querypose_config
from querypose.config_checks import check_config, leaves

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "datasets" / "README.md", ROOT / "weights" / "README.md"]
)
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

FENCED = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
KEY = re.compile(r"[A-Z][A-Z0-9_]*(?:\.[A-Z][A-Z0-9_]*)+")
FILE = re.compile(
    r"(?<![\w/.-])(?:configs|datasets|docs|querypose|tests|tools|weights)/[\w./{},*-]*\.(?:\w+|\{[\w,]+\})"
)


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


def commands(text: str) -> list[str]:
    """The commands in a page's shell blocks, continued lines joined, and in its inline code."""
    lines = []
    for language, block in FENCED.findall(text):
        if language in ("sh", "bash"):
            lines += re.sub(r"\\\n\s*", "", block).splitlines()
    return lines + [code for code in inline_code(text) if re.search(r"tools/\w+\.py .", code)]


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


def test_files_in_code_exist(text):
    """Paths of the repository in code, with `{a,b}` and `*` as in a shell."""
    quoted = " ".join(inline_code(text) + [block for _, block in FENCED.findall(text)])
    names = [  # others in these two folders are created or downloaded
        name for name in FILE.findall(quoted) if not name.startswith(("datasets/", "weights/")) or name.endswith(".md")
    ]
    assert [path for name in names for path in expand(name) if not any(ROOT.glob(path))] == []


def expand(name: str) -> list[str]:
    choice = re.search(r"\{([^{}]*)\}", name)
    if not choice:
        return [name]
    return [
        path
        for one in choice[1].split(",")
        for path in expand(name[: choice.start()] + one.strip() + name[choice.end() :])
    ]


@cache
def tool_help(name: str) -> str:
    """The output of `tools/<name> --help`."""
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output):
        patch.syspath_prepend(ROOT / "tools")
        patch.setattr("sys.argv", [name, "--help"])
        with pytest.raises(SystemExit) as exit_:
            runpy.run_path(str(ROOT / "tools" / name), run_name="__main__")
    assert exit_.value.code == 0
    return output.getvalue()


def check_command(command: str) -> list[str]:
    """Problems of a command that runs a tool."""
    parts = shlex.split(command, comments=True)
    start = next(i for i, part in enumerate(parts) if re.fullmatch(r"(?:\S*/)?tools/\w+\.py", part))
    tool, arguments = Path(parts[start]).name, parts[start + 1 :]
    if not (ROOT / "tools" / tool).is_file():
        return [f"no tool {tool}"]
    known = set(re.findall(r"--[a-z][a-z0-9-]*", tool_help(tool)))
    wrong = [f"{tool} has no {flag}" for flag in arguments if flag.startswith("--") and flag.split("=")[0] not in known]

    cfg = get_cfg()
    add_querypose_config(cfg)
    files = [part for part in arguments if re.fullmatch(r"configs/[\w./-]+\.yaml", part) and "*" not in part]
    for file in files[:1]:
        cfg.merge_from_file(str(ROOT / file))
    keys = [i for i, part in enumerate(arguments) if KEY.fullmatch(part)]
    opts = [part for i in keys for part in arguments[i : i + 2]]
    if keys:
        try:
            cfg.merge_from_list(opts)
            if files and "QueryAttention" not in opts:  # registered by the example of docs/EXTENDING.md
                check_config(cfg)
        except (KeyError, ValueError, AssertionError) as error:
            wrong.append(f"{opts}: {error}")
    return wrong


def test_commands_are_known(text):
    """Tools, flags, targets of make, configs, and keys with valid values."""
    wrong = []
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command in commands(text):
        if re.search(r"(?:^|[ /])tools/\w+\.py", command):
            wrong += check_command(command)
        elif command.startswith("make "):
            parts = shlex.split(command, comments=True)[1:]
            wrong += [f"make has no {part}" for part in parts if part.isalpha() and part not in targets]
    assert wrong == []


def test_check_command_reports_mistakes():
    assert check_command("python tools/plot_training.py run --output a.png --color red") == [
        "plot_training.py has no --color"
    ]
    assert check_command("python tools/nothing.py") == ["no tool nothing.py"]
    assert "NUM_QUERY" in check_command("python tools/train_net.py MODEL.QUERYPOSE.NUM_QUERY 3")[0]
    command = "python tools/train_net.py --config-file configs/querypose_R50.yaml MODEL.QUERYPOSE.VARIANT"
    assert check_command(f"{command} light") == []
    assert "valid are" in check_command(f"{command} heavy")[0]


def test_config_keys_exist(text):
    """Dotted keys in the text, complete or by their last parts (`LOSS.L1_WEIGHT`)."""
    cfg = get_cfg()
    add_querypose_config(cfg)
    dotted = [f".{key}." for key in [*dict(leaves(cfg)), "MODEL.TIMM.OPTIONS"]]
    wrong = [
        key for code in inline_code(text) for key in KEY.findall(code) if not any(f".{key}." in name for name in dotted)
    ]
    assert wrong == []


def test_shell_scripts_parse(text):
    for language, block in FENCED.findall(text):
        if language in ("sh", "bash"):
            result = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True)
            assert result.returncode == 0, f"{block}\n{result.stderr}"


def navigation() -> list[str]:
    sections = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    entries = [entry for section in sections for entries in section.values() for entry in entries]
    return [entry if isinstance(entry, str) else next(iter(entry.values())) for entry in entries]


def test_every_page_is_in_the_navigation():
    assert sorted(navigation()) == sorted(name.removeprefix("docs/") for name in NAMES if name != "README.md")


def test_the_site_builds_and_loads_nothing_from_other_servers(tmp_path):
    """mkdocs in strict mode: links and anchors of the site, pages outside of docs/ included."""
    pytest.importorskip("material", reason="needs mkdocs-material: pip install 'querypose[docs]', or make docs")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        build(load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(tmp_path)))
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) >= len(navigation())
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|link|iframe)\b[^>]*(?:src|href)=\"?((?:https?:)?//[^\s\">]+)", text)
        assert loaded == [], page
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", style.read_text(encoding="utf-8")), style
    # links to pages and files outside of docs/
    assert (tmp_path / "datasets" / "index.html").is_file() and (tmp_path / "tools" / "detectron2_patches.py").is_file()


def test_lists_and_tables_begin_after_an_empty_line(text):
    """The site renders them only then."""
    lines = [""] + prose(text).splitlines()
    starts = [
        line
        for before, line in zip(lines, lines[1:], strict=False)
        if re.match(r"(?:[-*] |\d+\. |\|)", line) and not re.match(r"(?:[-*] |\d+\. |\||  |#|\s*$)", before)
    ]
    assert starts == []
