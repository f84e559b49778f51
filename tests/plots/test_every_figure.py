"""What holds for every registered figure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from figure_samples import STEPS, a_result, sample

from geomdiag.errors import GeomdiagError
from geomdiag.plots import FIGURES, plot_dynamics, save_figure
from geomdiag.plots.style import WIDTH

every = pytest.mark.parametrize("name", list(FIGURES))
of_a_run = pytest.mark.parametrize(
    "name", [name for name, figure in FIGURES.items() if figure.of == "run"]
)


def drawn(name: str, **options: Any) -> list[Any]:
    figure = FIGURES[name]
    shown, more = sample(figure)
    found = figure.draw(shown, **more, **options)
    return list(np.atleast_1d(np.asarray(found, dtype=object)))


@every
def test_it_tells_what_it_is(name: str) -> None:
    figure = FIGURES[name]
    assert figure.name == name
    assert figure.about
    assert set(figure.takes) <= {"step", "task"}


@every
def test_title_and_axes_are_labelled(name: str) -> None:
    axes = drawn(name)
    assert axes[0].get_title(loc="left")
    for one in axes:
        assert one.get_ylabel() or one.get_yticklabels()[0].get_text()
    assert axes[-1].get_xlabel()


@every
def test_nothing_is_covered_or_cut_off(name: str) -> None:
    axes = drawn(name)
    figure = axes[0].figure
    figure.canvas.draw()
    assert figure.bbox.width <= 100 * WIDTH
    renderer = figure.canvas.get_renderer()
    inside = figure.bbox.padded(1)
    for one in figure.axes:
        box = one.get_tightbbox(renderer)
        assert inside.contains(box.x0, box.y0), (name, box)
        assert inside.contains(box.x1, box.y1), (name, box)
        if legend := one.get_legend():
            for other in figure.axes:
                assert not other.get_window_extent().overlaps(legend.get_window_extent())
    texts = [*axes[0].texts, axes[0]._left_title]
    boxes = [text.get_window_extent(renderer) for text in texts if text.get_text()]
    title = boxes.pop()
    assert not any(title.overlaps(box) for box in boxes)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [*((name, "svg") for name in FIGURES), ("embedding", "png"), ("spectrum", "pdf")],
)
def test_the_same_data_gives_the_same_bytes(name: str, suffix: str, tmp_path: Path) -> None:
    paths = [save_figure(drawn(name), tmp_path / f"{i}.{suffix}") for i in range(2)]
    one, other = (path.read_bytes() for path in paths)
    assert one == other
    assert len(one) > 1000


@every
def test_it_draws_into_given_axes_and_leaves_the_style_alone(name: str) -> None:
    count = len(drawn(name))
    before = dict(mpl.rcParams)
    _, given = plt.subplots(count)
    ax = list(np.atleast_1d(given)) if count > 1 else given
    axes = drawn(name, ax=ax)
    assert axes == list(np.atleast_1d(given))
    assert dict(mpl.rcParams) == before


@of_a_run
def test_one_checkpoint_is_enough(name: str) -> None:
    figure = FIGURES[name]
    one = a_result().isel(step=[7])
    axes = list(np.atleast_1d(np.asarray(figure.draw(one), dtype=object)))
    axes[0].figure.canvas.draw()
    low, high = axes[-1].get_xlim()
    assert low < high


@pytest.mark.parametrize("name", ["dynamics", "forecast", "spectrum"])
def test_gaps_are_left_open(name: str) -> None:
    data = a_result()
    for variable in data.data_vars.values():
        if "step" in variable.dims and variable.dtype.kind == "f":
            variable[{"step": 3}] = np.nan
    axes = list(np.atleast_1d(np.asarray(FIGURES[name].draw(data), dtype=object)))
    axes[0].figure.canvas.draw()
    if name == "spectrum":
        gap = np.ma.getmaskarray(axes[0].collections[0].get_array())
        assert gap[:, 3].all()
        assert gap.sum() == len(gap)
        return
    curves = [line.get_ydata() for line in axes[0].lines if len(line.get_ydata()) == len(STEPS)]
    assert curves
    assert all(np.flatnonzero(np.isnan(curve)).tolist() == [3] for curve in curves)


def test_importing_figures_loads_no_matplotlib() -> None:
    code = (
        "import sys, geomdiag.plots as p; list(p.FIGURES.values()); "
        "print([m for m in ('matplotlib', 'torch', 'sklearn', 'ripser') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@every
def test_without_matplotlib_the_error_names_the_extra(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(GeomdiagError, match=r"pip install 'geomdiag\[plots\]'"):
        drawn(name)


def test_a_wrong_number_of_axes_is_an_error() -> None:
    _, two = plt.subplots(2)
    with pytest.raises(GeomdiagError, match=r"found 2 Axes, expected 4, one for each of: accuracy"):
        plot_dynamics(a_result(), ax=list(two))
