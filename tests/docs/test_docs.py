"""The documentation builds without warnings and without a network, and its links lead somewhere."""

import re
import runpy
from types import SimpleNamespace

import pytest

PATH = re.compile(r"(?<![\w/.])(?:tools|mmdet_configs|csrc|tests|requirements)/[\w./-]+\.\w+")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def headings(path):
    """Anchors of a Markdown file, as GitHub makes them."""
    lines = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S).splitlines()
    titles = [line.lstrip("#").strip() for line in lines if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.slow
def test_it_builds_without_warnings_or_links_to_elsewhere(site):
    pages = list(site.glob("*.html"))
    assert {"index.html", "own_selector.html", "methods.html", "faq.html", "faq_training.html"} <= {
        p.name for p in pages
    }
    for page in pages:
        fetched = re.findall(r'(?:src|<link[^>]*href)="(https?://[^"]+)"', page.read_text())
        assert not fetched, f"{page.name} fetches {fetched}"
    text = (site / "own_selector.html").read_text()
    assert "InsideBoxSelector" in text and "--8&lt;--" not in text and "--8<--" not in text
    assert (site / "methods.html").read_text().count('<svg class="math"') > 8


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md"])
def test_links_of_the_top_level_pages(request, name):
    root = request.config.rootpath
    for target in LINK.findall((root / name).read_text()):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = root / path if path else root / name
        assert file.exists(), f"{name} links to {target}"
        if anchor:
            assert anchor in headings(file), f"{name} links to {target}"


def test_files_that_pages_name_exist(request):
    root = request.config.rootpath
    pages = [root / "README.md", *(root / "docs").glob("*.md")]
    named = {(page.name, path) for page in pages for path in PATH.findall(page.read_text())}
    assert len(named) > 20
    assert not [(page, path) for page, path in sorted(named) if not (root / path).exists()]


def test_pictures_are_small(request):
    pictures = (request.config.rootpath / "docs/images").glob("*.png")
    assert not [path.name for path in pictures if path.stat().st_size > 400_000]


def test_equations_and_links_out_of_the_docs(request, caplog):
    docs = request.config.rootpath / "docs"
    hook = runpy.run_path(docs / "hooks.py")["on_page_markdown"]
    page = SimpleNamespace(file=SimpleNamespace(src_uri="page.md"))

    def run(text):
        return hook(text, page, {"docs_dir": str(docs)}, None)

    assert run("costs 5$ or $OUT, `$x$`") == "costs 5$ or $OUT, `$x$`"
    code = "```\n$$\nx\n$$\n```"
    assert run(code) == code
    shown = run("with $x_l < 2$ there\n\n$$\n\\frac{a}{b}\n$$\n")
    assert shown.count("<svg") == 2 and 'aria-label="x_l &lt; 2"' in shown
    assert '<div class="equation"><svg' in shown
    assert run("[setup.py](../setup.py)") == "`setup.py`"
    assert run("[how](../setup.py#L3)") == "how (`setup.py`)"
    row = run("| [a](../tools/demo.py) | b |")
    assert row == '| <code class="file" title="tools/demo.py">demo.py</code> | b |'
    assert run("![a](../setup.py)") == "![a](../setup.py)"
    assert not caplog.records
    assert run("[gone](../none.py)") == "gone" and run("$\\none{x}$") == "\\none{x}"
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
