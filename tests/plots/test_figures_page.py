"""docs/figures.md tells of every figure, and shows what is drawn today."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from geomdiag.plots import FIGURES, save_figure

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "figures.md").read_text(encoding="utf-8")
PICTURES = re.findall(r"\]\(figures/([^)]+)\)", PAGE)


def test_every_figure_has_a_section() -> None:
    assert re.findall(r"^### `(.*)`$", PAGE, re.MULTILINE) == sorted(
        FIGURES, key=lambda name: PAGE.index(f"### `{name}`")
    )


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_small(name: str) -> None:
    assert (DOCS / "figures" / name).stat().st_size < 150_000
    assert ElementTree.parse(DOCS / "figures" / name).getroot().tag.endswith("svg")


@pytest.mark.parametrize("name", ["embedding", "shepard"])
def test_pictures_are_what_is_drawn(name: str, tmp_path: Path) -> None:
    constraints = (DOCS.parent / "constraints.txt").read_text(encoding="utf-8").split()
    if f"matplotlib=={mpl.__version__}" not in constraints:
        pytest.skip("another version of matplotlib draws otherwise")
    spec = importlib.util.spec_from_file_location("make_figures", DOCS / "make_figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    drawn = save_figure(module.QUICK[name](), tmp_path / f"{name}.svg")
    committed = (DOCS / "figures" / f"{name}.svg").read_bytes()
    assert committed == drawn.read_bytes(), "run `python docs/make_figures.py`"
