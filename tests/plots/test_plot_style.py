"""Colours that colour-blind readers tell apart, and files that are what they say."""

from __future__ import annotations

import itertools
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from figure_samples import a_result
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from geomdiag.errors import GeomdiagError, StoreError
from geomdiag.plots import plot_dynamics, save_figure, style
from geomdiag.plots.style import BANDS, COLOURS, CYCLIC, MARKERS

#: Machado, Oliveira & Fernandes 2009 (doi 10.1109/TVCG.2009.113), severity 1, on linear RGB.
VISION = {
    "trichromat": np.eye(3),
    "protanope": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranope": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanope": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
Floats = NDArray[np.float64]


def linear(colour: object) -> Floats:
    rgb = np.array(to_rgb(colour))  # type: ignore[arg-type]
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: Floats) -> Floats:
    """CIELAB under D65, of linear RGB."""
    xyz = (
        np.array(
            [
                [0.4124564, 0.3575761, 0.1804375],
                [0.2126729, 0.7151522, 0.0721750],
                [0.0193339, 0.1191920, 0.9503041],
            ]
        )
        @ rgb
        / np.array([0.95047, 1.0, 1.08883])
    )
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def seen(colour: object, eye: str) -> Floats:
    return lab(np.clip(VISION[eye] @ linear(colour), 0, 1))


def contrast(one: object, other: object) -> float:
    """WCAG 2 contrast ratio."""
    light, dark = sorted(
        (float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, other)), reverse=True
    )
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("eye", VISION)
def test_lines_are_told_apart(eye: str) -> None:
    for one, other in itertools.combinations(COLOURS, 2):
        assert np.linalg.norm(seen(one, eye) - seen(other, eye)) > 15, (one, other)
    assert len(set(MARKERS)) >= len(COLOURS)


def test_the_simulation_finds_colours_that_are_confused() -> None:
    red, green = "#C05A3C", "#7B7B32"
    apart = {eye: np.linalg.norm(seen(red, eye) - seen(green, eye)) for eye in VISION}
    assert apart["trichromat"] > 40 > 15 > apart["deuteranope"]


def test_lines_stand_out_from_white() -> None:
    assert min(contrast(colour, "white") for colour in COLOURS) > 3


@pytest.mark.parametrize("eye", VISION)
def test_bands_are_told_apart_and_let_lines_and_numbers_be_read(eye: str) -> None:
    tints = ["white", *BANDS.values()]
    for one, other in itertools.pairwise(tints):
        assert seen(one, eye)[0] - seen(other, eye)[0] > 3  # ever darker
        assert np.linalg.norm(seen(one, eye) - seen(other, eye)) > 5
    assert all(contrast("black", tint) > 12 for tint in tints)


@pytest.mark.parametrize("eye", VISION)
def test_opposite_phases_are_told_apart(eye: str) -> None:
    colours = mpl.colormaps[CYCLIC](np.linspace(0, 1, 65))[:, :3]
    for place in range(32):
        one, other = (seen(tuple(colours[i]), eye) for i in (place, place + 32))
        assert np.linalg.norm(one - other) > 15, place / 64


def test_a_suffix_without_a_format_is_an_error(tmp_path: Path) -> None:
    axes = plot_dynamics(a_result())
    with pytest.raises(GeomdiagError, match=r"found the suffix '.jpeg', expected one of .svg"):
        save_figure(axes, tmp_path / "a.jpeg")


def test_a_folder_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot write"):
        save_figure(plot_dynamics(a_result()), tmp_path / "none" / "a.svg")


def test_a_file_holds_no_date_and_its_text_as_text(tmp_path: Path) -> None:
    text = save_figure(plot_dynamics(a_result()), tmp_path / "a.svg").read_text(encoding="utf-8")
    assert "dc:date" not in text
    assert "<text" in text
    assert "geometry begins" in text


def test_the_style_holds_inside_the_block_alone() -> None:
    before = mpl.rcParams["svg.hashsalt"]
    with style():
        assert mpl.rcParams["svg.hashsalt"] == "geomdiag"
    assert mpl.rcParams["svg.hashsalt"] == before


def test_writing_leaves_the_layout_as_it_was(tmp_path: Path) -> None:
    """What holds the layout still while a figure is written ends with it."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 1, layout="constrained")
    engine = figure.get_layout_engine()
    one = save_figure(panels, tmp_path / "one.svg").read_bytes()
    assert figure.get_layout_engine() is engine
    assert all(panel.get_in_layout() for panel in panels)
    assert one == save_figure(panels, tmp_path / "two.svg").read_bytes()
    panels[0].set_ylabel("wide\nlabel\nof\nmany\nlines")
    before = panels[0].get_position().x0
    save_figure(panels, tmp_path / "three.svg")
    assert panels[0].get_position().x0 > before
    plt.close(figure)
