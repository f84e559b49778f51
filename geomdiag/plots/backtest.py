"""How good forecasts were: errors on the way, what chances mean, and false alarms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from geomdiag.plots.style import COLOURS, GREY, MARKERS, axes_for, legend_beside, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_alarms", "plot_errors", "plot_reliability"]


@styled
def plot_errors(errors: Mapping[str, Mapping[float, float]], *, ax: Axes | None = None) -> Axes:
    """Draw the median relative error of methods against the share of the way to the onset.

    Parameters
    ----------
    errors : mapping of str to mapping of float to float
        Method → share of the way → error; the first two methods are drawn in full, the others
        pale.
    ax : Axes, optional
        Where to draw; a figure of its own if left out.

    Returns
    -------
    Axes
    """
    (ax,) = axes_for(ax, ["errors"], (7.0, 3.2))
    for i, (name, found) in enumerate(errors.items()):
        shares = np.array(list(found))
        values = np.array(list(found.values()))
        look: dict[str, Any] = {"color": COLOURS[i], "marker": MARKERS[i]} if i < 2 else {}
        look = look or {"color": GREY, "linestyle": _DASHES[i % len(_DASHES)], "linewidth": 1.0}
        ax.plot(100 * shares, values, label=name, **look)
    ax.axhline(0.25, color=GREY, linewidth=0.7)
    ax.set_yscale("log")
    ax.set_yticks([0.1, 0.25, 0.5, 1, 2, 5, 10], ["0.1", "0.25", "0.5", "1", "2", "5", "10"])
    ax.minorticks_off()
    ax.set_xlabel("way to the onset, % of its step")
    ax.set_ylabel("median relative error")
    ax.set_title("Error of the forecast onset on left-out tasks")
    legend_beside(ax)
    return ax


_DASHES = ("--", (0, (1, 3)), ":", "-.", (0, (5, 1)), "-")


@styled
def plot_reliability(
    points: Mapping[str, Sequence[tuple[float, float, int]]], *, ax: Axes | None = None
) -> Axes:
    """Draw how often it happened against the chance that was forecast.

    Parameters
    ----------
    points : mapping of str to sequence of (float, float, int)
        Name → as `geomdiag.dynamics.evaluation.reliability` gives them.
    ax : Axes, optional
        Where to draw; a figure of its own if left out.

    Returns
    -------
    Axes
    """
    (ax,) = axes_for(ax, ["reliability"], (5.6, 3.6))
    ax.plot([0, 100], [0, 100], color=GREY, linewidth=0.7)
    for i, (name, found) in enumerate(points.items()):
        chance, share, _ = np.array(found).reshape(-1, 3).T
        ax.plot(
            100 * chance,
            100 * share,
            label=name,
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
        )
    ax.set_xlim(0, 100)
    ax.set_ylim(0, 100)
    ax.set_xlabel("forecast chance, %")
    ax.set_ylabel("happened, %")
    ax.set_title("Do chances mean what they say?")
    legend_beside(ax)
    return ax


@styled
def plot_alarms(
    rates: Mapping[str, Sequence[tuple[float, float, float]]], *, ax: Axes | None = None
) -> Axes:
    """Draw the achieved against the requested rate of false alarms.

    Parameters
    ----------
    rates : mapping of str to sequence of (float, float, float)
        Method → requested rate, achieved rate, share of the others that was announced.
    ax : Axes, optional
        Where to draw; a figure of its own if left out.

    Returns
    -------
    Axes
    """
    (ax,) = axes_for(ax, ["alarms"], (5.6, 3.4))
    most = 0.0
    for i, (name, found) in enumerate(rates.items()):
        requested, achieved, _ = 100 * np.array(found).T
        most = max(most, requested.max(), achieved.max())
        look: dict[str, Any] = {"color": COLOURS[i], "marker": MARKERS[i]} if i < 2 else {}
        look = look or {"color": GREY, "linestyle": _DASHES[i % len(_DASHES)], "linewidth": 1.0}
        ax.plot(requested, achieved, label=name, **look)
    ax.plot([0, most], [0, most], color=GREY, linewidth=0.7)
    ax.set_xlim(0, None)
    ax.set_ylim(0, None)
    ax.set_xlabel("requested false alarms, %")
    ax.set_ylabel("achieved, %")
    ax.set_title("False alarms on left-out tasks")
    legend_beside(ax)
    return ax
