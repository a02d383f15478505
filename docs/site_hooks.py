"""What mkdocs does with links that leave docs/: pages elsewhere become pages of the site, other files are put beside them."""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["CONTRIBUTING.md", "datasets/README.md", "weights/README.md"]  # outside of docs/, in the navigation
LINK = re.compile(r"(\]\()([^)#:\s]+)((?:#[^)\s]*)?\))")


def site_path(path: str) -> str:
    """Where a file of the repository, by its path there, stands in the site."""
    return path.removeprefix("docs/")


def repository_path(source: str) -> str:
    """The repository path of a page of the site."""
    return source if source in PAGES else f"docs/{source}"


def linked_files(markdown: str, path: str) -> list[str]:
    """Repository paths that the relative links of a page at the repository path `path` lead to."""
    folder = posixpath.dirname(path)
    return [posixpath.normpath(posixpath.join(folder, match[2])) for match in LINK.finditer(markdown)]


def on_files(files, config):
    """Add the pages outside of docs/, and every file outside that a page links to."""
    wanted = set(PAGES)
    for path in [*PAGES, *(f"docs/{file.src_uri}" for file in files.documentation_pages())]:
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
