"""The persistence diagram: when components and loops of the embedding appear and vanish."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from geomdiag.errors import GeomdiagError
from geomdiag.plots._results import row_at, run_name, unit_of, variable
from geomdiag.plots.contract import Figure
from geomdiag.plots.style import COLOURS, GREY, MARKERS, WIDTH, axes_for, legend_beside, styled

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__all__ = ["FIGURE", "plot_persistence"]

_NAMES = {"H0": "components (H0)", "H1": "loops (H1)", "H2": "voids (H2)"}


@styled
def plot_persistence(
    dataset: xr.Dataset,
    *,
    step: int | None = None,
    matrix: str = "embedding",
    ax: Axes | None = None,
) -> Axes:
    """Draw birth and death of the longest bars of each homology.

    Parameters
    ----------
    dataset : xr.Dataset
        Result of one run.
    step : int, optional
        Which; the last one that was analysed if left out.
    matrix : str
        Whose rows.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes

    Raises
    ------
    GeomdiagError
        If the result has no persistence (it is computed on request), none at this step, or no
        such step.
    """
    advice = "It is computed on request: `geomdiag analyze ... --analyzers default,topology`."
    bars = variable(dataset, "persistence", advice, matrix=matrix)
    row = row_at(dataset, step)
    at = bars.isel(step=row)
    where = f"{run_name(dataset)}, {unit_of(dataset)} {dataset['step'].values[row]}"
    if not np.isfinite(at.values).any():
        raise GeomdiagError(f"{where}: found no bars of the {matrix}; choose another step")
    (one,) = axes_for(ax, ["persistence"], (WIDTH, 4.8))
    top = 1.08 * float(np.nanmax(at.values))
    one.plot([0, top], [0, top], color=GREY, lw=0.8, label="vanishes at once")
    for place, homology in enumerate(at["homology"].values.astype(str)):
        own = at.sel(homology=homology)
        label = _NAMES.get(homology, homology)
        if "holes" in dataset:
            holes = float(variable(dataset, "holes", matrix=matrix, homology=homology)[row])
            if np.isfinite(holes):
                label += f":\n{holes:.0f} beyond noise"
        one.plot(
            own.sel(bound="birth").values,
            own.sel(bound="death").values,
            MARKERS[place],
            color=COLOURS[place],
            ms=6,
            mfc="none",
            mew=1.4,
            label=label,
            clip_on=False,
        )
    one.set_xlim(0, top)
    one.set_ylim(0, top)
    one.set_aspect("equal")
    name = matrix.replace("_", " ")
    one.set_xlabel(f"appears at distance (units of the {name})")
    one.set_ylabel("vanishes at distance")
    one.set_title(f"Loops and components of the {name}: {where}")
    legend_beside(one, labelspacing=0.9)
    return one


FIGURE = Figure(
    "persistence",
    plot_persistence,
    of="run",
    about="when components and loops of the embedding appear and vanish (topology, on request)",
    takes=("step",),
)
