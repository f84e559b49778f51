"""When runs generalise under each setting: interventions side by side."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geomdiag.plots._results import corpus_of, only_task
from geomdiag.plots.contract import Figure
from geomdiag.plots.style import COLOURS, PALE, WIDTH, axes_for, legend_beside, styled

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__all__ = ["FIGURE", "censored_median", "plot_interventions"]


@styled
def plot_interventions(
    runs: xr.DataTree | xr.Dataset, *, task: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw each run's step of generalisation, a row a setting, the quickest setting first.

    Parameters
    ----------
    runs : xr.DataTree or xr.Dataset
        A result of many runs, or a corpus. Runs of one setting share what stands before the last
        ``/`` of their names, as those that ``geomdiag train`` makes of several seeds do.
    task : str, optional
        Whose runs; needed where they are of several tasks.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        An open triangle at its last step stands for a run that did not generalise. The
        median counts it as later than that; there is none where half of the runs did not.

    Raises
    ------
    GeomdiagError
        If the task is not clear.

    References
    ----------
    arXiv 2603.01968, its figure 9.
    """
    corpus = corpus_of(runs)
    task, chosen = only_task(corpus, task)
    settings = corpus["setting"].values.astype(str)[chosen]
    onset = corpus["t_generalised"].values[chosen].astype(np.float64)
    last = corpus["last_step"].values[chosen].astype(np.float64)
    medians = {name: censored_median(onset[settings == name]) for name in np.unique(settings)}
    order = sorted(medians, key=lambda name: (medians[name], name))
    (one,) = axes_for(ax, ["settings"], (WIDTH, 1.3 + 0.3 * max(len(order), 3)))
    one.hlines(range(len(order)), 0, 1, transform=one.get_yaxis_transform(), color=PALE, lw=0.6)
    for row, name in enumerate(order):
        own = settings == name
        done, late = own & ~np.isnan(onset), own & np.isnan(onset)
        first = row == 0
        one.plot(
            np.maximum(onset[done], 1), np.full(done.sum(), row), "o", color=COLOURS[0], ms=5,
            alpha=0.6, mew=0, label="run generalised" if first else None,
        )  # fmt: skip
        # side by side: they all end where the budget does
        aside = row + 0.12 * (np.arange(late.sum()) - (late.sum() - 1) / 2)
        one.plot(
            np.maximum(last[late], 1), aside, ">", color=COLOURS[1], ms=5, mfc="none",
            label="not by its last step" if first else None,
        )  # fmt: skip
        if math.isfinite(medians[name]):
            one.plot([max(medians[name], 1)] * 2, [row - 0.35, row + 0.35], "-", color="black")
    one.plot([], [], "k-", label="median")
    one.set_xscale("log")
    ends = np.concatenate([onset[~np.isnan(onset)], last[np.isnan(onset)]])
    low, high = max(float(ends.min()), 1.0), max(float(ends.max()), 1.0)
    one.set_xlim(low / 1.4, high * 1.4)
    ticks = [t for d in range(9) for t in (10**d, 2 * 10**d, 5 * 10**d) if low / 1.4 <= t]
    ticks = [t for t in ticks if t <= high * 1.4]
    if len(ticks) > 6:
        ticks = [t for t in ticks if math.log10(t).is_integer()]
    one.set_xticks(ticks, [f"{t:,}" for t in ticks])
    one.set_xticks([], minor=True)
    counts = [int((settings == name).sum()) for name in order]
    one.set_yticks(
        range(len(order)),
        [f"{_short(name)} ({count})" for name, count in zip(order, counts, strict=True)],
    )
    one.set_ylim(len(order) - 0.4, -0.6)
    one.tick_params(axis="y", length=0)
    one.set_xlabel("step from which held-out accuracy stays at 0.99")
    one.set_title(f"Time to generalise: {task}")
    legend_beside(one)
    return one


def censored_median(onset: NDArray[np.float64]) -> float:
    """Return the median of steps of which some were not reached (NaN: later than all others).

    Infinite where it falls among these.
    """
    values = np.sort(np.where(np.isnan(onset), np.inf, onset))
    low, high = values[(len(values) - 1) // 2], values[len(values) // 2]
    return float(low) if low == high else float((low + high) / 2)


def _short(name: str) -> str:
    """Return the last part of a setting's path, which is what differs."""
    return name.rpartition("/")[2] or name or "all runs"


FIGURE = Figure(
    "interventions",
    plot_interventions,
    of="runs",
    about="step at which the runs of each setting generalise, with medians",
    takes=("task",),
)
