"""Links that leave docs/: mkdocs makes pages elsewhere pages of the site, and puts other files beside them."""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(\]\()([^)#:\s]+)((?:#[^)\s]*)?\))")
_outside: set[str] = set()  # pages of the navigation that do not lie in docs/, by their repository paths


def on_config(config):
    """Find the pages outside of docs/."""
    _outside.clear()
    _outside.update(page for page in _leaves(config.nav) if not (ROOT / "docs" / page).is_file())


def _leaves(nav) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [leaf for item in (nav.values() if isinstance(nav, dict) else nav) for leaf in _leaves(item)]


def site_path(path: str) -> str:
    """Where a file of the repository, by its path there, stands in the site."""
    return path.removeprefix("docs/")


def repository_path(source: str) -> str:
    """The repository path of a page of the site."""
    return source if source in _outside else f"docs/{source}"


def linked_files(markdown: str, path: str) -> list[str]:
    """Repository paths that the relative links of a page at the repository path `path` lead to."""
    folder = posixpath.dirname(path)
    return [posixpath.normpath(posixpath.join(folder, match[2])) for match in LINK.finditer(markdown)]


def on_files(files, config):
    """Add the pages outside of docs/, and every file outside that a page links to."""
    wanted = set(_outside)
    for path in [*_outside, *(f"docs/{file.src_uri}" for file in files.documentation_pages())]:
        wanted.update(linked_files((ROOT / path).read_text(encoding="utf-8"), path))
    for path in sorted(wanted):
        if not path.startswith("docs/") and (ROOT / path).is_file() and files.get_file_from_path(path) is None:
            files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turn links between places of the repository into links between places of the site."""
    source = page.file.src_uri
    folder = posixpath.dirname(repository_path(source))

    def moved(match):
        target = site_path(posixpath.normpath(posixpath.join(folder, match[2])))
        return match[1] + posixpath.relpath(target, posixpath.dirname(source) or ".") + match[3]

    return LINK.sub(moved, markdown)
