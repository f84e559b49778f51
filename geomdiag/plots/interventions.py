"""When runs generalise under each setting: interventions side by side."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geomdiag.plots._results import corpus_of, only_task
from geomdiag.plots.contract import Figure
from geomdiag.plots.style import COLOURS, GREY, PALE, WIDTH, axes_for, legend_beside, styled

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__all__ = ["FIGURE", "censored_median", "plot_interventions"]


@styled
def plot_interventions(
    runs: xr.DataTree | xr.Dataset, *, task: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw each run's step of generalisation, a row a setting, the quickest first.

    Parameters
    ----------
    runs : xr.DataTree or xr.Dataset
        A result of many runs, or a corpus. Runs of one setting share what stands before the last
        ``/`` of their names, as those that ``geomdiag train`` makes of several seeds do.
        Settings called ``group+variant``, as those of its sweeps are, stand under their group,
        beside a dotted line at the median of its variant ``baseline``.
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
    groups: dict[str, list[str]] = {}
    reached = {name: int((~np.isnan(onset[settings == name])).sum()) for name in medians}
    for name in sorted(medians, key=lambda one: (medians[one], -reached[one], one)):
        groups.setdefault(_parts(name)[0], []).append(name)
    # rows of a group's name (without a setting), then of its settings
    rows: list[tuple[str, str | None]] = []
    for group, names in sorted(groups.items()):
        rows += [(group, None)] if group else []
        rows += [(f"{_parts(name)[1]} ({(settings == name).sum()})", name) for name in names]
    (one,) = axes_for(ax, ["settings"], (WIDTH, 1.2 + 0.24 * max(len(rows), 4)))
    for row, (_, name) in enumerate(rows):
        if name is not None:
            own = settings == name
            _setting(one, row, onset[own], last[own], medians[name])
    place = {name: row for row, (_, name) in enumerate(rows)}
    based = False
    for names in groups.values():
        base = next((medians[name] for name in names if _parts(name)[1] == "baseline"), math.nan)
        if math.isfinite(base):
            top, bottom = place[names[0]] - 0.5, place[names[-1]] + 0.5
            one.vlines(max(base, 1), top, bottom, color=GREY, ls=":", lw=1)
            based = True
    one.plot([], [], "o", color=COLOURS[0], ms=5, label="run generalised")
    one.plot([], [], ">", color=COLOURS[1], ms=5, mfc="none", label="not by its last step")
    one.plot([], [], "-", color="black", label="median")
    if based:
        one.plot([], [], ":", color=GREY, lw=1, label="baseline's median")
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
    one.set_yticks(range(len(rows)), [label for label, _ in rows])
    for tick, (_, name) in zip(one.get_yticklabels(), rows, strict=True):
        if name is None:
            tick.set_fontweight("bold")
    one.set_ylim(len(rows) - 0.4, -0.6)
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


def _parts(name: str) -> tuple[str, str]:
    """Return what a setting is a variant of (empty if of nothing), and what it is called."""
    last = name.rpartition("/")[2]
    group, _, variant = last.partition("+")
    return (group, variant) if variant else ("", last or "all runs")


def _setting(
    ax: Axes, row: int, onset: NDArray[np.float64], last: NDArray[np.float64], median: float
) -> None:
    """Draw the runs of one setting in its row."""
    ax.axhline(row, color=PALE, lw=0.6, zorder=0)
    done, late = ~np.isnan(onset), np.isnan(onset)
    ax.plot(
        np.maximum(onset[done], 1), np.full(done.sum(), row), "o", color=COLOURS[0], ms=5,
        alpha=0.6, mew=0,
    )  # fmt: skip
    # one above the other: they all end where the budget does
    aside = row + 0.12 * (np.arange(late.sum()) - (late.sum() - 1) / 2)
    ax.plot(np.maximum(last[late], 1), aside, ">", color=COLOURS[1], ms=4.5, mfc="none")
    if math.isfinite(median):
        ax.plot([max(median, 1)] * 2, [row - 0.35, row + 0.35], "-", color="black")


FIGURE = Figure(
    "interventions",
    plot_interventions,
    of="runs",
    about="step at which the runs of each setting generalise, with medians",
    takes=("task",),
)
