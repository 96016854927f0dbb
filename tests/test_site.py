"""The documentation as a site: it builds without a warning and a network, and shows what a repository viewer shows."""

import html.parser
import importlib.util
import json
import os
import re
import subprocess
import sys
from urllib.parse import unquote, urlsplit

import markdown_it
import pytest

from tests.document_commands import DOCUMENTS, ROOT
from tsrec_jax import settings
from tsrec_jax.command_flags import parse

PARTS = ("table", "tr", "ul", "ol", "li", "h1", "h2", "h3", "pre", "code", "strong", "em", "img", "a")


class Addresses(html.parser.HTMLParser):
    """What a page links to, what it loads, and the ids of its parts."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loads, self.ids = set(), set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids.add(found.get("id"))
        for name in ("href", "src"):
            if found.get(name):
                (self.links if tag == "a" else self.loads).add(found[name])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, and {file: a page}."""
    for module in ("mkdocs", "material", "mkdocstrings"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module} (extra `docs`), which is not installed here")
    folder = tmp_path_factory.mktemp("site")
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | nowhere,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder, {path: Addresses(path.read_text("utf-8")) for path in sorted(folder.rglob("*.html"))}


def test_every_link_of_the_site_leads_to_a_page_and_a_part_of_it(site):
    folder, pages = site
    missing = []
    for path, page in pages.items():
        if path.name == "404.html":
            continue  # which is shown at any address
        for link in page.links | page.loads:
            parts = urlsplit(link)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            part = unquote(parts.fragment)
            if not parts.scheme and (not target.is_file() or (part and part not in pages[target].ids)):
                missing.append(f"{path.relative_to(folder)}: {link}")
    assert not missing


def test_reading_the_site_loads_nothing_from_elsewhere(site):
    folder, pages = site
    assert len(pages) > 40
    assert not {load for page in pages.values() for load in page.loads if urlsplit(load).scheme not in ("", "data")}
    styles = "".join(path.read_text("utf-8") for path in folder.rglob("*.css"))
    assert not re.findall(r"url\(['\"]?https?:|@import", styles)


def test_the_site_has_what_is_not_written_as_its_pages(site):
    folder, _ = site
    for page, text in {
        "index.html": "A language model that recommends",  # the README
        "source/configs/quickstart.py/index.html": "get_config",
        "tutorial/index.html": "read_dataset",  # a notebook
        "reference/index.html": 'id="tsrec_jax.serving.recommender.Recommender.recommend"',
    }.items():
        assert text in (folder / page).read_text("utf-8"), page


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_has_the_same_parts_on_the_site_as_in_a_repository_viewer(document):
    """Python's Markdown wants blank lines before lists, four blanks in nested ones, backslashes before some stars."""
    markdown = pytest.importorskip("markdown")
    pytest.importorskip("pymdownx")
    text = document.read_text("utf-8")
    ours = markdown.markdown(text, extensions=["tables", "pymdownx.superfences"])
    theirs = markdown_it.MarkdownIt("commonmark").enable("table").render(text)
    assert parts(ours) == parts(theirs)


def parts(page):
    """How many of each kind of part a page has."""
    return {part: len(re.findall(rf"<{part}[ >]", page)) for part in PARTS}


def test_the_study_that_the_how_to_writes_down_is_one(tmp_path):
    text = (ROOT / "docs/howto/compare.md").read_text("utf-8")
    file = tmp_path / "mine.py"
    file.write_text(re.search(r"```python\n(.*?)```", text, re.S)[1])
    config = parse(["study", f"--config={file}", "--config.dataset.path=FOLDER"])[0].config
    study = settings.settings_of(config).study
    assert set(study.arms) == {"tsrec", "plain"} and study.comparisons[0] == "tsrec > plain"


def test_notebooks_are_kept_without_outputs():
    for path in (ROOT / "docs").rglob("*.ipynb"):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
