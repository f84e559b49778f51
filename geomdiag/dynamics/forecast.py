"""When a run will generalise, told at every step from that step and earlier ones."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geomdiag._replace import write_text
from geomdiag.dynamics.corpus import signals_of
from geomdiag.dynamics.crossings import REACHED
from geomdiag.dynamics.curves import curve_of
from geomdiag.dynamics.derived import over_runs, replaced
from geomdiag.dynamics.features import features
from geomdiag.dynamics.forecaster import (
    FIRST,
    MODES,
    QUANTILES,
    Forecaster,
    chance_at,
)
from geomdiag.dynamics.hazard import EDGES
from geomdiag.errors import GeomdiagError

__all__ = [
    "HORIZONS",
    "QUANTILES",
    "forecast",
    "forecast_run",
    "load_forecaster",
    "newest",
    "save_forecaster",
]

FloatArray = NDArray[np.float64]

#: Where forecasts are missing, for the definitions.
_OVER = (
    f"missing before step {FIRST}, and where the last held-out accuracy known by this step is "
    f"{REACHED} or more, or without a split that over all inputs 1: then the onset lies behind"
)
#: Horizons, as factors on the present step.
HORIZONS = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0)


def save_forecaster(
    found: Mapping[str, Forecaster], path: str | os.PathLike[str], *, about: Mapping[str, Any]
) -> Path:
    """Write forecasters as JSON, with what they were made of.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    values = {
        "format": "geomdiag-forecaster",
        "format_version": 1,
        **about,
        "modes": {mode: one.to_dict() for mode, one in found.items()},
    }
    return write_text(json.dumps(values, indent=1) + "\n", path)


def load_forecaster(path: str | os.PathLike[str] | None = None) -> dict[str, Forecaster]:
    """Read forecasters, one for each mode; without a path those that come with geomdiag.

    Raises
    ------
    GeomdiagError
        If the file is no forecaster.
    """
    if path is None:
        return _own()
    if not Path(path).is_file():
        raise GeomdiagError(
            f"there is no forecaster at {path}; `geomdiag evaluate --save` makes one"
        )
    return _parsed(Path(path).read_text(encoding="utf-8"), str(path))


@cache
def _own() -> dict[str, Forecaster]:
    file = files("geomdiag.dynamics") / "data" / "forecaster.json"
    return _parsed(file.read_text(encoding="utf-8"), "geomdiag's own forecaster")


def _parsed(text: str, name: str) -> dict[str, Forecaster]:
    try:
        values = json.loads(text)
        if values.get("format") != "geomdiag-forecaster":
            raise ValueError("its format is not geomdiag-forecaster")
        return {mode: Forecaster.from_dict(one) for mode, one in values["modes"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GeomdiagError(f"{name} cannot be read as a forecaster: {error}") from error


def forecast_run(
    dataset: xr.Dataset,
    *,
    budget: float | None = None,
    forecasters: Mapping[str, Forecaster] | None = None,
) -> xr.Dataset:
    """Return what was to be expected of one run at each of its steps.

    Parameters
    ----------
    dataset : xr.Dataset
        Result of one run.
    budget : float, optional
        Last step that the run may take. Left out: 24.5 times the present step, as far as the
        forecaster reaches.
    forecasters : mapping of str to Forecaster, optional
        One for each mode; those that come with geomdiag if left out.

    Returns
    -------
    xr.Dataset
        Over ``forecast_mode``: geometry (symmetry and geometry alone: neither answers nor split)
        and, where the split is known, losses (these too). ``onset_probability`` (forecast_mode,
        step, horizon): chance of having generalised when the step is `horizon` times the present
        one. ``onset`` (forecast_mode, step, quantile): step, given that it generalises within
        24.5 times the present step. ``onset_never`` (forecast_mode, step): chance of not having
        generalised within the budget; NaN for a budget beyond 24.5 times the step.
        ``forecast_verdict`` (): the last step's forecast in words.

        NaN before step 10 and, in either mode, at the steps at which the run has generalised:
        whose last known held-out accuracy is 0.99 or more or, where the split is not known, whose
        accuracy over all inputs is 1. The onset is behind it then, and chances given that it is
        still to come mean nothing. No later step is asked whether it stays; where it falls below
        again, forecasts begin anew.
    """
    forecasters = load_forecaster() if forecasters is None else forecasters
    steps = np.asarray(dataset["step"].values, dtype=np.int64)
    signals = signals_of(dataset)
    split = "loss[heldout]" in signals
    modes = [mode for mode in MODES if mode in forecasters and (mode != "losses" or split)]
    modes = [mode for mode in modes if any(name.startswith("symmetry_js") for name in signals)]
    if not modes:
        return _nothing(
            "no forecast: it needs the symmetry violations of the network, and there are none"
        )
    over = _generalised(dataset)
    late = (steps >= FIRST) & ~over
    shape = (len(modes), len(steps))
    chance = np.full((*shape, len(HORIZONS)), np.nan)
    onset = np.full((*shape, len(QUANTILES)), np.nan)
    never = np.full(shape, np.nan)
    found = features(steps, signals, MODES[modes[-1]])  # the last mode sees what the others see
    for i, mode in enumerate(modes):
        model = forecasters[mode]
        columns = np.stack([found[name] for name in model.hazard.names], axis=1)[late]
        survival = model.survival(columns)
        now = steps[late].astype(np.float64)
        for j, factor in enumerate(HORIZONS):
            chance[i, late, j] = chance_at(survival, np.full(len(now), math.log(factor)))
        onset[i, late] = now[:, None] * np.exp(model.quantiles(columns))
        end = np.full(len(now), EDGES[-1]) if budget is None else np.log(budget / now)
        # nothing is known of what is farther away than the last edge
        never[i, late] = np.where(end <= EDGES[-1], 1 - chance_at(survival, end), np.nan)
    verdict = _verdict(steps, modes, over, onset, never, budget)
    return xr.Dataset(
        {
            "onset_probability": (
                ("forecast_mode", "step", "horizon"),
                chance,
                {
                    "long_name": "chance of having generalised by a later step",
                    "units": "1",
                    "definition": "forecast from this step and earlier ones, for `horizon` times "
                    f"this step; {_OVER}; see docs/forecast.md",
                },
            ),
            "onset": (
                ("forecast_mode", "step", "quantile"),
                onset,
                {
                    "long_name": "forecast step from which held-out accuracy stays at 0.99",
                    "units": "step",
                    "definition": "median and ends of the 50 % and 90 % intervals, which hold as "
                    "many onsets of left-out tasks; given that the run generalises "
                    f"within {math.exp(EDGES[-1]):.1f} times this step; {_OVER}",
                },
            ),
            "onset_never": (
                ("forecast_mode", "step"),
                never,
                {
                    "long_name": "chance of not generalising within the budget",
                    "units": "1",
                    "definition": "budget: "
                    + (
                        f"{math.exp(EDGES[-1]):.1f} times this step"
                        if budget is None
                        else f"step {budget:.0f}"
                    )
                    + f"; {_OVER}",
                },
            ),
            "forecast_verdict": _words(verdict),
        },
        {
            "step": dataset["step"],
            "forecast_mode": modes,
            "horizon": list(HORIZONS),
            "quantile": list(QUANTILES),
        },
    )


def _generalised(dataset: xr.Dataset) -> NDArray[np.bool_]:
    """Return at which steps the run has generalised, as far as is known there, (step,).

    From this step and earlier ones alone: whether it stays, a forecaster cannot know.
    """
    known, level = curve_of(dataset, "accuracy", "held-out accuracy", part="heldout"), REACHED
    if not known:  # which inputs are held out is unknown, and no matter where all are right
        known, level = curve_of(dataset, "accuracy", "accuracy", part="all"), 1.0
    last = np.searchsorted(known.steps, dataset["step"].values, side="right") - 1
    return (last >= 0) & (np.append(known.values, 0.0)[last] >= level)


def _verdict(
    steps: NDArray[np.int64],
    modes: list[str],
    over: NDArray[np.bool_],
    onset: FloatArray,
    never: FloatArray,
    budget: float | None,
) -> str:
    if over[-1]:
        return "has generalised: nothing to forecast"
    i = len(modes) - 1
    if np.isnan(onset[i]).all():
        return f"no forecast: it begins at step {FIRST}, and the last checkpoint is of {steps[-1]}"
    at = int(np.flatnonzero(~np.isnan(onset[i, :, 0]))[-1])
    low, middle, high = onset[i, at, 0], onset[i, at, 2], onset[i, at, 4]
    source = "losses and geometry" if modes[i] == "losses" else "symmetry and geometry alone"
    reach = math.exp(EDGES[-1]) * steps[at]
    told = f"at step {steps[at]}, from {source}: "
    if math.isnan(never[i, at]):
        told += f"what happens by step {budget:.0f} cannot be told (nothing beyond {reach:.0f})"
    else:
        end = f"step {budget:.0f}" if budget is not None else f"step {reach:.0f} (24.5 times this)"
        told += f"does not generalise by {end} with a chance of {never[i, at]:.0%}"
    return told + (
        f"; if it generalises by {reach:.0f}, then at step {middle:.0f} "
        f"(90 % interval {low:.0f} to {high:.0f})"
    )


def _nothing(why: str) -> xr.Dataset:
    return xr.Dataset({"forecast_verdict": _words(why)})


def _words(text: str) -> tuple[tuple[()], str, dict[str, str]]:
    about = {
        "long_name": "forecast at the last step",
        "units": "1",
        "definition": "in words",
    }
    return (), text, about


def forecast(
    tree: xr.DataTree,
    *,
    budget: float | None = None,
    forecasters: Mapping[str, Forecaster] | None = None,
) -> xr.DataTree:
    """Return a result with the forecast of every run made anew.

    Parameters
    ----------
    tree : xr.DataTree
        As `geomdiag.analyze` gives it.
    budget, forecasters
        As in `forecast_run`.

    Returns
    -------
    xr.DataTree
        The same tree with the variables of `forecast_run`.

    Raises
    ------
    GeomdiagError
        If the budget is not a positive number.
    """
    if budget is not None and not (math.isfinite(budget) and budget > 0):
        raise GeomdiagError(f"budget: found {budget!r}, expected a positive number of steps")

    def again(run: xr.Dataset) -> xr.Dataset:
        made = forecast_run(run, budget=budget, forecasters=forecasters)
        return replaced(run, made, _VARIABLES, _DIMS)

    return over_runs(tree, again)


_VARIABLES = ("onset_probability", "onset", "onset_never", "forecast_verdict")
_DIMS = ("forecast_mode", "horizon", "quantile")


def newest(run: xr.Dataset) -> dict[str, Any]:
    """Return the forecast at a run's last step as plain values, ready for JSON.

    Parameters
    ----------
    run : xr.Dataset
        With the variables of `forecast_run`.

    Returns
    -------
    dict
        ``step``, ``verdict`` (in words), and for each forecast mode (``geometry``, ``losses``)
        ``onset`` by quantile and ``probability`` by horizon, both by their text ("0.5"), and
        ``never``, the chance of not generalising within the budget. None stands for a number
        that is not known. No mode where no forecast was made.
    """
    told: dict[str, Any] = {
        "step": int(run["step"].values[-1]),
        "verdict": str(run["forecast_verdict"].values),
    }
    if "onset" not in run:
        return told
    last = run.isel(step=-1)
    for mode in run["forecast_mode"].values.tolist():
        own = last.sel(forecast_mode=mode)
        told[mode] = {
            "onset": _by_label(own["onset"], "quantile"),
            "probability": _by_label(own["onset_probability"], "horizon"),
            "never": _known(float(own["onset_never"])),
        }
    return told


def _by_label(values: xr.DataArray, dim: str) -> dict[str, float | None]:
    return {f"{float(one):g}": _known(float(values.sel({dim: one}))) for one in values[dim]}


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
