"""What the build does to a page: equations become SVG, links out of the docs become paths.

Equations are written as GitHub shows them, between dollar signs. Matplotlib sets
them while the site is built, so a page needs no script from elsewhere.
"""

from __future__ import annotations

import logging
import re
from html import escape
from pathlib import Path
from typing import Any

log = logging.getLogger("mkdocs.plugins.sparse_encoders")

CODE = re.compile(r"(^ *```.*?^ *```$|`[^`\n]+`)", re.DOTALL | re.MULTILINE)
DISPLAY = re.compile(r"^\$\$\n?(.+?)\n?\$\$$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"(?<![\w$\\])\$(?=\S)([^$\n]+?)(?<=\S)\$(?![\w$])")
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)[^)#\s]+)(?:#[^)]*)?\)")
ROLE = re.compile(r":[a-z]+:(?=<code>)")  # of the docstrings, as Sphinx reads them
SIZE = 100.0  # of the letters that are drawn, in units of the drawing


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """MkDocs calls this with each page's text."""
    source = Path(config["docs_dir"]) / page.file.src_uri
    parts = CODE.split(markdown)
    for place in range(0, len(parts), 2):  # the odd parts are code
        text = DISPLAY.sub(lambda found: equation(found[1], page, display=True), parts[place])
        parts[place] = INLINE.sub(lambda found: equation(found[1], page), text)
    lines = "".join(parts).split("\n")
    for place, line in enumerate(lines):
        row = line.startswith("|")
        lines[place] = LINK.sub(lambda found, row=row: path_of(*found.groups(), source, row), line)
    return "\n".join(lines)


def on_page_content(html: str, **kwargs: Any) -> str:
    """MkDocs calls this with each page's HTML."""
    return ROLE.sub("", html)


def path_of(text: str, target: str, source: Path, row: bool) -> str:
    """A link to a file outside of the docs, as the file's path in the checkout.

    In a table's row it is the file's name alone, which a config is found by.
    """
    checkout = Path(__file__).resolve().parents[1]
    path = (source.parent / target).resolve()
    if not path.is_relative_to(checkout) or not path.exists():
        log.warning("%s links to %s, which is not there", source.name, target)
        return text
    inside = path.relative_to(checkout).as_posix()
    if row:
        return f'<code class="file" title="{inside}">{path.name}</code>'
    plain = text.strip("`")
    return f"`{inside}`" if inside.endswith(plain) else f"{text} (`{inside}`)"


def equation(tex: str, page: Any, display: bool = False) -> str:
    """An equation as inline SVG, of the size and colour of the text around it."""
    tex = " ".join(tex.split())
    try:
        drawn = svg(tex)
    except ValueError as error:
        log.warning("%s: the equation %r cannot be set: %s", page.file.src_uri, tex, error)
        return escape(tex)
    return f'\n<div class="equation">{drawn}</div>\n' if display else drawn


def svg(tex: str) -> str:
    """TeX (Matplotlib's share of it) to an SVG element, standing on the line.

    Raises:
        ValueError: Matplotlib cannot set it.
    """
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import MathTextParser
    from matplotlib.textpath import TextPath

    font = FontProperties(size=SIZE, math_fontfamily="stix")
    box = MathTextParser("path").parse(f"${tex}$", dpi=72, prop=font)
    width, height, depth = (float(side) + 4 for side in (box.width, box.height, box.depth))
    letters = {1: "M", 2: "L", 3: "Q", 4: "C", 79: "Z"}
    steps = []
    for points, code in TextPath((0, 0), f"${tex}$", prop=font).iter_segments(simplify=False):
        pairs = zip(points[::2], points[1::2], strict=True)
        places = "" if code == 79 else " ".join(f"{x:.0f} {-y:.0f}" for x, y in pairs)
        steps.append(letters[int(code)] + places)
    em = [f"{side / SIZE:.3f}em" for side in (width, height, depth)]
    return (
        f'<svg class="math" role="img" aria-label="{escape(tex)}" '
        f'style="width:{em[0]};height:{em[1]};vertical-align:-{em[2]}" '
        f'viewBox="-2 {depth - height:.0f} {width:.0f} {height:.0f}">'
        f'<path d="{"".join(steps)}"/></svg>'
    )
