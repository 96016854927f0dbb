"""What mkdocs.yml adds to the pages of docs/: the README as the first page, notebooks, and files that pages link to.

Links lead where the files are in a checkout. On the site a file outside docs/ has a page that shows it, and links to it
lead there.
"""

import json
import os
import pathlib
import re
from collections.abc import Iterator

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
# Pages that are where visitors of a repository expect them.
TOP = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
SOURCE = "source/"  # of the site, with a page for each other file that some page links to
LINK = re.compile(r"(?<=\]\()(?![a-z]+:)[^)#\s]+")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are not Markdown files in docs/."""
    written = [*(ROOT / name for name in TOP), *DOCS.rglob("*.ipynb")]
    pages = {path: _markdown(path) for path in (*written, *DOCS.rglob("*.md"))}
    shown = {target for path, text in pages.items() for target in _linked(path, text) if not _is_page(target)}
    for path in (*written, *sorted(shown)):
        content = pages[path] if path in pages else _shown(path)
        files.append(File.generated(config, place(path), content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Redirects the links of a page to where the site has their files."""
    here = pathlib.PurePosixPath(page.file.src_uri).parent
    folder = _origin(page.file.src_uri).parent

    def moved(link: re.Match[str]) -> str:
        target = (folder / link[0]).resolve()
        return os.path.relpath(place(target), here) if target.is_file() else link[0]

    return LINK.sub(moved, markdown)


def place(path: pathlib.Path) -> str:
    """Where the site has a file of the checkout."""
    name = path.relative_to(ROOT).as_posix()
    if path.suffix == ".ipynb":
        path = path.with_suffix(".md")
    return path.relative_to(DOCS).as_posix() if DOCS in path.parents else TOP.get(name, f"{SOURCE}{name}.md")


def _origin(page: str) -> pathlib.Path:
    """The file of the checkout that a page is made from."""
    for name, top in TOP.items():
        if page == top:
            return ROOT / name
    if page.startswith(SOURCE):
        return ROOT / page.removeprefix(SOURCE).removesuffix(".md")
    return DOCS / page  # a notebook is in the folder where its page would be


def _is_page(path: pathlib.Path) -> bool:
    return DOCS in path.parents or path.relative_to(ROOT).as_posix() in TOP


def _linked(path: pathlib.Path, text: str) -> Iterator[pathlib.Path]:
    """The files that a page links to."""
    for link in LINK.findall(text):
        target = (path.parent / link).resolve()
        if target.is_file():
            yield target


def _markdown(path: pathlib.Path) -> str:
    text = path.read_text("utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    return "\n\n".join(source if kind == "markdown" else f"```python\n{source}\n```" for kind, source in cells)


def _shown(path: pathlib.Path) -> str:
    """A page with the contents of a file; searches leave it out."""
    language = path.suffix.removeprefix(".") or "text"
    text = path.read_text("utf-8").rstrip()
    head = "---\nsearch:\n  exclude: true\n---\n"
    return f"{head}\n# {path.relative_to(ROOT).as_posix()}\n\n````{language}\n{text}\n````\n"
