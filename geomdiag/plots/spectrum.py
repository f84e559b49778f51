"""The spectrum over steps: which blocks of the task's basis hold the power."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geomdiag.plots._results import run_name, step_axis, unit_of, variable
from geomdiag.plots.contract import Figure
from geomdiag.plots.style import COLOURS, PALE, SEQUENTIAL, WIDTH, axes_for, styled

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__all__ = ["FIGURE", "plot_spectrum"]

#: Labels of blocks that fit one above the other.
LABELS = 16
#: Cells beyond which they are written as an image, even in an SVG.
MANY = 500


@styled
def plot_spectrum(
    dataset: xr.Dataset, *, matrix: str = "embedding", ax: Axes | None = None
) -> Axes:
    """Draw the share of power in each block (frequency, representation, eigenspace) over steps.

    Parameters
    ----------
    dataset : xr.Dataset
        Result of one run.
    matrix : str
        Whose spectrum.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        Grey where the checkpoint has no such number; a triangle beside the blocks that stand
        out (`key_block`) at the last step that was analysed.

    Raises
    ------
    GeomdiagError
        If the result has no such spectrum.
    """
    power = variable(dataset, "power", matrix=matrix).transpose("step", "block")
    steps, blocks = power["step"].values, power["block"].values.astype(str)
    (one,) = axes_for(ax, ["spectrum"], (WIDTH, 1.2 + 0.2 * min(max(len(blocks), 8), 22)))
    one.set_facecolor(PALE)
    drawn = one.pcolormesh(
        cell_edges(steps),
        np.arange(len(blocks) + 1) - 0.5,
        np.ma.masked_invalid(power.values.T),
        cmap=SEQUENTIAL,
        vmin=0.0,
        rasterized=power.size > MANY,
    )
    step_axis(one, cell_edges(steps), unit_of(dataset))
    one.set_xlim(*cell_edges(steps)[[0, -1]])
    shown = range(0, len(blocks), -(-len(blocks) // LABELS))
    one.set_yticks(list(shown), [blocks[i] for i in shown])
    cyclic = all(block.startswith("k=") and "," not in block for block in blocks)
    one.set_ylabel("frequency" if cyclic else "block of the task's basis")
    for row in key_rows(dataset, matrix):
        one.plot(
            1.015, row, "<", color=COLOURS[1], ms=5, clip_on=False,
            transform=one.get_yaxis_transform(),
        )  # fmt: skip
    one.set_title(f"Spectrum of the {matrix.replace('_', ' ')}, run {run_name(dataset)}")
    bar: Any = one.figure.colorbar(drawn, ax=one, pad=0.04)
    bar.set_label("share of non-trivial power\n(◂ stands out at the last step)")
    return one


def key_rows(dataset: xr.Dataset, matrix: str) -> NDArray[np.int64]:
    """Return the blocks that stand out at the last step where this is known."""
    if "key_block" not in dataset or "key_p_value" not in dataset:
        return np.empty(0, dtype=np.int64)
    known = variable(dataset, "key_p_value", matrix=matrix).transpose("step", "block").notnull()
    rows = np.flatnonzero(known.values.any(axis=1))
    if not len(rows):
        return np.empty(0, dtype=np.int64)
    key = variable(dataset, "key_block", matrix=matrix).transpose("step", "block").values[rows[-1]]
    return np.flatnonzero(key > 0)


def cell_edges(steps: NDArray[Any]) -> NDArray[np.float64]:
    """Return where each step's cell ends: half way between steps in log(1 + step)."""
    logs = np.log1p(np.asarray(steps, dtype=np.float64))
    if len(logs) == 1:
        return np.asarray(np.expm1([logs[0] * 0.95, logs[0] * 1.05 + 0.1]))
    middle = (logs[1:] + logs[:-1]) / 2
    return np.asarray(np.expm1([logs[0], *middle, logs[-1]]))


FIGURE = Figure(
    "spectrum",
    plot_spectrum,
    of="run",
    about="power of the embedding in each frequency, representation or eigenspace over steps",
)
