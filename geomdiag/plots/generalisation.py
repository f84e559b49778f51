"""Final violation against held-out accuracy of many runs, with the threshold between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geomdiag.errors import GeomdiagError
from geomdiag.plots._results import corpus_of, only_task
from geomdiag.plots.contract import Figure
from geomdiag.plots.style import COLOURS, GREY, WIDTH, axes_for, legend_beside, styled

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__all__ = ["FIGURE", "plot_generalisation"]


@styled
def plot_generalisation(
    runs: xr.DataTree | xr.Dataset,
    *,
    task: str | None = None,
    signal: str | None = None,
    tau: float | None = None,
    criterion: Mapping[str, Any] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the violation that each run ends with against its held-out accuracy.

    Parameters
    ----------
    runs : xr.DataTree or xr.Dataset
        A result of many runs, or a corpus.
    task : str, optional
        Whose runs; needed where they are of several tasks.
    signal : str, optional
        Violation, such as ``symmetry_violation[commutativity,mean]``. Left out: the one that
        `criterion` tells the task by, else the mean symmetric-KL one that most runs have and
        that the network does not enforce.
    tau : float, optional
        Threshold to draw, nats. Left out: that of `criterion`, else the level that best
        separates the runs that are drawn, where there are three of either kind.
    criterion : mapping, optional
        Thresholds as `geomdiag.dynamics.criterion.load_criterion` gives them; those that come
        with geomdiag if left out, none if it is empty.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        A violation of exactly 0 stands at the left edge.

    Raises
    ------
    GeomdiagError
        If there is no violation or held-out accuracy, or the task is not clear.

    References
    ----------
    arXiv 2603.01968, its figure 7.
    """
    from geomdiag.dynamics.criterion import LEAST, best_threshold, load_criterion

    corpus = corpus_of(runs)
    task, chosen = only_task(corpus, task)
    signals = corpus["signal"].values.astype(str)
    if "accuracy[heldout]" not in signals:
        raise GeomdiagError(
            "found no held-out accuracy; expected runs whose split is known (--split of "
            "`geomdiag analyze`)"
        )
    known_taus = (load_criterion() if criterion is None else criterion).get("tasks", {})
    calibrated = {
        str(one["signal"]): one for one in known_taus.get(task, []) if one["signal"] in signals
    }
    if signal is None and calibrated:
        signal = next(iter(calibrated))
    elif signal is None:
        signal = _fullest(corpus, signals, chosen)
    elif signal not in signals:
        others = ", ".join(one for one in signals if one.startswith("symmetry_"))
        raise GeomdiagError(f"no run has {signal}; known: {others or 'none'}")
    x, y = (last_values(corpus, one)[chosen] for one in (signal, "accuracy[heldout]"))
    solved = ~np.isnan(corpus["t_generalised"].values[chosen])
    known = ~np.isnan(x) & ~np.isnan(y)
    if not known.any():
        raise GeomdiagError(f"no run of {task} has both {signal} and a held-out accuracy")
    (one,) = axes_for(ax, ["runs"], (WIDTH, 3.8))
    positive = x[known & (x > 0)]
    floor = 0.5 * float(positive.min()) if len(positive) else 1e-9
    for mask, marker, colour, label in (
        (solved, "o", COLOURS[0], "generalised"),
        (~solved, "X", COLOURS[1], "not generalised"),
    ):
        rows = known & mask
        one.plot(
            np.maximum(x[rows], floor), y[rows], marker, color=colour, ms=6, alpha=0.85, mew=0,
            label=f"{label} ({rows.sum()})",
        )  # fmt: skip
    label = "τ given"
    both = min((known & solved).sum(), (known & ~solved).sum())
    if tau is None and signal in calibrated:
        tau = float(calibrated[signal]["level"])
        label = f"τ calibrated on\n{calibrated[signal]['runs']} runs"
    elif tau is None and both >= LEAST:
        tau = best_threshold(np.maximum(x[known], floor), solved[known])
        label = "τ of these runs,\nin hindsight"
    if tau is not None:
        one.axvline(tau, color="black", lw=1, ls="--", label=f"{label}: {tau:.2g} nat")
    elif both < LEAST:
        one.plot([], [], " ", label=f"no τ: fewer than\n{LEAST} runs of a kind")
    one.set_xscale("log")
    one.minorticks_off()
    one.set_ylim(-0.04, 1.04)
    one.axhline(1.0, color=GREY, lw=0.5, zorder=0)
    one.set_xlabel(f"{words(signal)} at the end (nat)")
    one.set_ylabel("held-out accuracy at the end")
    one.set_title(f"Violation and generalisation: {known.sum()} runs of {task}")
    legend_beside(one)
    return one


def last_values(corpus: xr.Dataset, signal: str) -> NDArray[np.float64]:
    """Return the last known value of a signal of each run, (runs,)."""
    values = corpus["value"].sel(signal=signal).values.astype(np.float64)
    index = corpus["run_index"].values
    found = np.full(corpus.sizes["run"], np.nan)
    known = ~np.isnan(values)
    found[index[known]] = values[known]  # rows are in order of step: the last one stays
    return found


def words(signal: str) -> str:
    """Return a violation's signal in plain words."""
    name, _, labels = signal.rstrip("]").partition("[")
    symmetry, _, statistic = labels.partition(",")
    kind = {"symmetry_violation": "symmetric KL", "symmetry_js": "Jensen-Shannon"}.get(name, name)
    return f"{statistic} violation of {symmetry.replace('_', ' ')}, {kind},"


def _fullest(corpus: xr.Dataset, signals: NDArray[np.str_], chosen: NDArray[np.int64]) -> str:
    """Return the mean violation that most runs have and that some learnt."""
    from geomdiag.dynamics.features import ENFORCED

    best, most = "", 0
    for signal in signals:
        if not (signal.startswith("symmetry_violation[") and signal.endswith(",mean]")):
            continue
        rows = np.isin(corpus["run_index"].values, chosen)
        values = corpus["value"].sel(signal=signal).values[rows]
        if np.nanmax(values, initial=0.0) <= ENFORCED:
            continue  # built into the network
        count = int((~np.isnan(last_values(corpus, signal)[chosen])).sum())
        if count > most:
            best, most = str(signal), count
    if not best:
        raise GeomdiagError(
            "found no symmetry violation that is learnt; expected the diagnostic `symmetry` of "
            "`geomdiag analyze`"
        )
    return best


FIGURE = Figure(
    "generalisation",
    plot_generalisation,
    of="runs",
    about="final violation against held-out accuracy of many runs, with the threshold τ",
    takes=("task",),
)
