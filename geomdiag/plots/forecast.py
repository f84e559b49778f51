"""The forecast over time: a fan that should close on the step at which the run generalised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from geomdiag.errors import GeomdiagError
from geomdiag.plots._results import run_name, step_axis, unit_of, variable
from geomdiag.plots.contract import Figure
from geomdiag.plots.style import COLOURS, GREY, WIDTH, axes_for, legend_beside, styled

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__all__ = ["FIGURE", "plot_forecast"]

_SOURCES = {"geometry": "symmetry and geometry alone", "losses": "losses and geometry"}
_FAN = (("90 %", 0.05, 0.95, 0.18), ("50 %", 0.25, 0.75, 0.38))


@styled
def plot_forecast(
    dataset: xr.Dataset, *, mode: str | None = None, ax: Sequence[Axes] | None = None
) -> list[Axes]:
    """Draw what was forecast at each step, and what came.

    Parameters
    ----------
    dataset : xr.Dataset
        Result of one run, with the variables of `geomdiag.dynamics.forecast.forecast_run`.
    mode : str, optional
        Which of ``forecast_mode``; the last one, which knows most, if left out.
    ax : sequence of Axes, optional
        Two: the fan, and the chance that the run never generalises.

    Returns
    -------
    list of Axes
        The fan's upper edge is where the forecast no longer reaches: a median beyond it is a
        triangle there. There is no fan where the run has generalised: its onset is behind it.

    Raises
    ------
    GeomdiagError
        If there is no forecast, or none in this mode.
    """
    advice = "Make it with geomdiag.dynamics.forecast.forecast(tree)."
    if "onset" not in dataset and "forecast_verdict" in dataset:
        advice = str(dataset["forecast_verdict"].values)
    onset = variable(dataset, "onset", advice)
    modes = onset["forecast_mode"].values.astype(str).tolist()
    mode = modes[-1] if mode is None else mode
    onset = variable(dataset, "onset", forecast_mode=mode).transpose("step", "quantile")
    never = variable(dataset, "onset_never", forecast_mode=mode)
    quantiles = {round(float(q), 6): i for i, q in enumerate(onset["quantile"].values)}
    steps, values = dataset["step"].values, onset.values
    told = ~np.isnan(values).all(axis=1)
    if not told.any():
        why = f": {dataset['forecast_verdict'].values}" if "forecast_verdict" in dataset else ""
        raise GeomdiagError(f"{run_name(dataset)}: no step has a forecast{why}")
    fan, chance = axes_for(
        ax, ["fan", "never"], (WIDTH, 5.2), sharex=True, height_ratios=[2.6, 1.0]
    )
    truth, interval = _truth(dataset)
    top = 2.0 * max(
        float(np.max(values[np.isfinite(values)], initial=1.0)),
        float(steps[told][-1]),
        truth if np.isfinite(truth) else 0.0,
    )
    colour = COLOURS[0]
    for label, low, high, alpha in _FAN:
        if low in quantiles and high in quantiles:
            ends = np.minimum(values[:, [quantiles[low], quantiles[high]]], top)
            fan.fill_between(
                steps, ends[:, 0], ends[:, 1], color=colour, alpha=alpha, lw=0,
                label=f"{label} interval",
            )  # fmt: skip
    if 0.5 in quantiles:
        median = values[:, quantiles[0.5]]
        beyond = np.isinf(median)
        fan.plot(steps, np.where(beyond, np.nan, median), "o-", color=colour, label="median")
        if beyond.any():
            fan.plot(
                steps[beyond], np.full(beyond.sum(), 0.93 * top), "^", color=colour, mfc="none",
                ms=5, label="median beyond reach",
            )  # fmt: skip
    fan.plot(steps[told], steps[told], "--", color=GREY, lw=1, label=f"this {unit_of(dataset)}")
    if np.isfinite(truth):
        if np.isfinite(interval).all() and interval[1] > interval[0]:
            fan.axhspan(interval[0], interval[1], color=COLOURS[1], alpha=0.3, lw=0)
        fan.axhline(truth, color=COLOURS[1], lw=1.4, label=f"generalised: {truth:,.0f}")
    else:
        fan.plot([], [], " ", label=f"not generalised\nby {steps[-1]:,.0f}")
    fan.set_yscale("log")
    fan.set_ylim(0.8 * max(float(steps[told][0]), 1.0), top)
    fan.minorticks_off()
    fan.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    fan.set_ylabel(f"generalises at {unit_of(dataset)}")
    fan.set_title(f"When run {run_name(dataset)} generalises, told from {_SOURCES.get(mode, mode)}")
    legend_beside(fan)
    chance.plot(steps, never.values, "s-", color=COLOURS[4])
    chance.set_ylim(-0.05, 1.05)
    chance.set_ylabel("chance of\nnever")
    shown = np.append(steps[told], truth if truth <= steps[-1] else np.nan)
    for one in (fan, chance):
        step_axis(one, shown, unit_of(dataset))
    fan.set_xlabel("")
    chance.set_xlabel(f"{unit_of(dataset)} at which it was forecast")
    return [fan, chance]


def _truth(dataset: xr.Dataset) -> tuple[float, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Return the step from which the run generalised, and its interval; NaN if unknown."""
    nothing = np.array([np.nan, np.nan])
    if "stage_boundary" not in dataset or "t_generalised" not in dataset["boundary"].values:
        return np.nan, nothing
    at = float(dataset["stage_boundary"].sel(boundary="t_generalised"))
    if "stage_boundary_interval" not in dataset:
        return at, nothing
    return at, dataset["stage_boundary_interval"].sel(boundary="t_generalised").values


FIGURE = Figure(
    "forecast",
    plot_forecast,
    of="run",
    about="when the run was expected to generalise, told at each step, and when it did",
)
