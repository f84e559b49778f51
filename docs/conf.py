"""How Sphinx makes the site out of these pages: `make docs`.

The pages stay readable on a code host, so what only the site needs is done here: links that leave
docs/ are turned to pages of the site, formulas become MathML, which browsers show without any
script or font from elsewhere, and the list of pages takes in every page that nobody placed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

project = "geomdiag"
author = "The geomdiag developers"
project_copyright = author
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc"]
exclude_patterns = ["_build", "README.md"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

# Types stand in the docstrings; links to other libraries would need the network.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
default_role = "literal"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

html_theme = "furo"
html_title = "geomdiag"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_math_renderer = "mathml"

#: Pages of the site whose text is a file elsewhere in the repository.
STANDINS = {
    "contributing": ROOT / "CONTRIBUTING.md",
    "fixtures": ROOT / "fixtures" / "README.md",
    "changelog": ROOT / "CHANGELOG.md",
}
#: Where links to these files lead on the site.
PAGES = {path: HERE / f"{name}.md" for name, path in STANDINS.items()} | {
    ROOT / "README.md": HERE / "index.md",
    HERE / "README.md": HERE / "index.md",
}
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def turned(text: str, source: Path, page: Path) -> str:
    """Return a page's text with links that leave docs/ turned to the site.

    Parameters
    ----------
    text : str
        Markdown.
    source : Path
        The file that the text comes from, which its links are relative to.
    page : Path
        The page of the site that it goes to.
    """

    def link(found: re.Match[str]) -> str:
        target = (source.parent / found[2]).resolve()
        if target.is_dir():
            return found[1]  # a folder is no page
        goal = Path(os.path.relpath(PAGES.get(target, target), page.parent)).as_posix()
        return f"[{found[1]}]({goal}{found[3] or ''})"

    # Code, which every second part is, stays as it is: "[x](y)" in it is no link.
    parts = re.split(r"(^```.*?^```|`[^`\n]+`)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if n % 2 else _LINK.sub(link, part) for n, part in enumerate(parts))


def read(_app: Any, docname: str, content: list[str]) -> None:
    """Prepare the text of a page before it is parsed."""
    page = HERE / f"{docname}.md"
    source = STANDINS.get(docname, page)
    text = source.read_text(encoding="utf-8") if source != page else content[0]
    if docname == "index":
        pages = (HERE / "README.md").read_text(encoding="utf-8").partition("\n")[2]
        text = text.replace("[README.md](README.md)", pages.strip())
        text = text.replace("\n*\n", "\n" + "\n".join(unplaced(text)) + "\n")
    content[0] = turned(text, source, page)


def unplaced(index: str) -> list[str]:
    """Return the pages beside index.md that none of its tables of contents names."""
    placed = {line.strip() for line in index.splitlines()} | {"index", "README"}
    return sorted(path.stem for path in HERE.glob("*.md") if path.stem not in placed)


def mathml(translator: Any, node: nodes.Node) -> None:
    """Write a formula within a line."""
    translator.body.append(tex2mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def display_mathml(translator: Any, node: nodes.Node) -> None:
    """Write a formula on a line of its own."""
    formula = tex2mathml(node.astext(), as_block=True)
    translator.body.append(f'<div class="math" tabindex="0">{formula}</div>\n')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    """Register what stands above."""
    app.connect("source-read", read)
    app.add_html_math_renderer("mathml", (mathml, None), (display_mathml, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
