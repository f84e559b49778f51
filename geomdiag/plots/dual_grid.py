"""The spectrum of a product of two cyclic groups at one step, on the grid of its frequencies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from geomdiag.errors import GeomdiagError
from geomdiag.plots._results import row_at, run_name, unit_of, variable
from geomdiag.plots.contract import Figure
from geomdiag.plots.spectrum import key_rows
from geomdiag.plots.style import PALE, SEQUENTIAL, WIDTH, axes_for, styled

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__all__ = ["FIGURE", "plot_dual_grid"]


@styled
def plot_dual_grid(
    dataset: xr.Dataset,
    *,
    step: int | None = None,
    matrix: str = "embedding",
    ax: Axes | None = None,
) -> Axes:
    """Draw the power of each character of Z_n1 × Z_n2 at its pair of frequencies.

    Parameters
    ----------
    dataset : xr.Dataset
        Result of one run.
    step : int, optional
        Which; the last one that was analysed if left out.
    matrix : str
        Whose spectrum.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        k and -k are one block, drawn once at the smaller of them; the other cells are grey.
        Framed: blocks that stand out at the last step.

    Raises
    ------
    GeomdiagError
        If there is no such spectrum or step, or the grid has not two axes.

    References
    ----------
    arXiv 2603.01968, Proposition 7.1.
    """
    advice = (
        "A dual grid is there for products of cyclic groups, such as group:Z6xZ10; "
        "`spectrum` draws every task's"
    )
    places = variable(dataset, "block_frequency", advice).transpose("block", "axis")
    if places.sizes["axis"] != 2:
        raise GeomdiagError(
            f"{run_name(dataset)}: found a dual grid of {places.sizes['axis']} axes, expected 2. "
            "Draw the figure `spectrum`, which has no such limit."
        )
    row = row_at(dataset, step)
    power = variable(dataset, "power", matrix=matrix).transpose("step", "block").values[row]
    at = np.nan_to_num(places.values, nan=-1).astype(np.int64)
    grid = np.full(at.max(axis=0) + 1, np.nan)
    there = (at >= 0).all(axis=1)
    grid[tuple(at[there].T)] = power[there]
    (one,) = axes_for(ax, ["dual grid"], (WIDTH, 1.2 + 5.0 * min(1.0, len(grid) / grid.shape[1])))
    one.set_facecolor(PALE)
    drawn = one.pcolormesh(
        np.arange(grid.shape[1] + 1) - 0.5,
        np.arange(grid.shape[0] + 1) - 0.5,
        np.ma.masked_invalid(grid),
        cmap=SEQUENTIAL,
        vmin=0.0,
    )
    for block in key_rows(dataset, matrix):
        first, second = at[block]
        for colour, width in (("white", 3.2), ("black", 1.4)):  # seen on light and on dark
            one.plot(second, first, "s", ms=11, mfc="none", mec=colour, mew=width)
    one.set_xticks(range(grid.shape[1]))
    one.set_yticks(range(grid.shape[0]))
    names = places["axis"].values.astype(str)
    one.set_xlabel(f"frequency {names[1]} (grey: the constant, and what is drawn at −k)")
    one.set_ylabel(f"frequency {names[0]}")
    one.set_aspect("equal")
    unit = unit_of(dataset)
    one.set_title(
        f"Spectrum of the {matrix.replace('_', ' ')}: {run_name(dataset)}, {unit} "
        f"{dataset['step'].values[row]}"
    )
    bar: Any = one.figure.colorbar(drawn, ax=one, pad=0.03, shrink=0.75)
    bar.set_label("share of non-trivial power\n(framed: stands out at the last step)")
    return one


FIGURE = Figure(
    "dual-grid",
    plot_dual_grid,
    of="run",
    about="power of the embedding on the frequencies of a product of two cyclic groups",
    takes=("step",),
)
