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

from geomdiag.dynamics.backtest import growth_quantile
from geomdiag.dynamics.corpus import onset as stays_from
from geomdiag.dynamics.corpus import signals_of
from geomdiag.dynamics.crossings import REACHED
from geomdiag.dynamics.curves import accuracy
from geomdiag.dynamics.features import features
from geomdiag.dynamics.forecaster import FIRST, MODES, QUANTILES, Forecaster, chance_at
from geomdiag.dynamics.hazard import EDGES
from geomdiag.errors import GeomdiagError

__all__ = [
    "HORIZONS",
    "QUANTILES",
    "forecast",
    "forecast_run",
    "load_forecaster",
    "save_forecaster",
]

FloatArray = NDArray[np.float64]

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
    from geomdiag._replace import plain_errors, replacing

    target = Path(path).resolve()
    values = {
        "format": "geomdiag-forecaster",
        "format_version": 1,
        **about,
        "modes": {mode: one.to_dict() for mode, one in found.items()},
    }
    with plain_errors(target), replacing(target) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    return target


def load_forecaster(path: str | os.PathLike[str] | None = None) -> dict[str, Forecaster]:
    """Read forecasters, one for each mode; without a path those that come with geomdiag.

    Raises
    ------
    GeomdiagError
        If the file is no forecaster.
    """
    if path is None:
        return _own()
    return (
        _parsed(Path(path).read_text(encoding="utf-8"), str(path))
        if Path(path).is_file()
        else (_missing(path))
    )


def _missing(path: str | os.PathLike[str]) -> dict[str, Forecaster]:
    raise GeomdiagError(f"there is no forecaster at {path}; `geomdiag evaluate --save` makes one")


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
        forecaster reaches; a budget beyond that counts as that.
    forecasters : mapping of str to Forecaster, optional
        One for each mode; those that come with geomdiag if left out.

    Returns
    -------
    xr.Dataset
        Over ``forecast_mode``: geometry (symmetry and geometry alone: neither answers nor split)
        and, where the split is known, losses (these too). ``onset_probability`` (forecast_mode,
        step, horizon): chance of having generalised when the step is `horizon` times the present
        one. ``onset`` (forecast_mode, step, quantile): step; infinite where that chance is not
        reached within 24.5 times the present step. ``onset_never`` (forecast_mode, step): chance
        of not having generalised within the budget. ``forecast_verdict`` (): the last step's
        forecast in words.

        NaN before step 10. In the mode with losses, a run that has generalised has its onset
        behind it: chances are 1, and quantiles the step itself.
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
    late = steps >= FIRST
    shape = (len(modes), len(steps))
    chance = np.full((*shape, len(HORIZONS)), np.nan)
    onset = np.full((*shape, len(QUANTILES)), np.nan)
    never = np.full(shape, np.nan)
    for i, mode in enumerate(modes):
        model = forecasters[mode]
        found = features(steps, signals, MODES[mode])
        columns = np.stack([found[name] for name in model.hazard.names], axis=1)[late]
        survival = model.survival(columns)
        now = steps[late].astype(np.float64)
        if mode == "losses":
            done = np.nan_to_num(signals["accuracy[heldout]"][late]) >= REACHED
            survival[done, 1:] = 0.0
        for j, factor in enumerate(HORIZONS):
            chance[i, late, j] = chance_at(survival, np.full(len(now), math.log(factor)))
        for j, share in enumerate(model.shares):
            onset[i, late, j] = now * np.exp(growth_quantile(survival, share))
            if mode == "losses":
                onset[i, np.flatnonzero(late)[done], j] = now[done]
        end = np.full(len(now), EDGES[-1]) if budget is None else np.log(budget / now)
        never[i, late] = 1 - chance_at(survival, end)
    verdict = _verdict(dataset, steps, modes, onset, never, budget)
    return xr.Dataset(
        {
            "onset_probability": (
                ("forecast_mode", "step", "horizon"),
                chance,
                {
                    "long_name": "chance of having generalised by a later step",
                    "units": "1",
                    "definition": "forecast from this step and earlier ones, for `horizon` times "
                    "this step; see docs/forecast.md",
                },
            ),
            "onset": (
                ("forecast_mode", "step", "quantile"),
                onset,
                {
                    "long_name": "forecast step from which held-out accuracy stays at 0.99",
                    "units": "step",
                    "definition": "median and ends of the 50 % and 90 % intervals, which hold as "
                    "many onsets of left-out tasks; infinite where not "
                    f"reached within {math.exp(EDGES[-1]):.1f} times this step",
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
                    ),
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


def _verdict(
    dataset: xr.Dataset,
    steps: NDArray[np.int64],
    modes: list[str],
    onset: FloatArray,
    never: FloatArray,
    budget: float | None,
) -> str:
    if "losses" in modes:
        heldout = accuracy(dataset, "heldout")
        since = stays_from(heldout.steps, heldout.values)[1]
        if not math.isnan(since):
            return "has generalised: nothing to forecast"
    i = len(modes) - 1
    if np.isnan(never[i]).all():
        return f"no forecast: it begins at step {FIRST}, and the last checkpoint is of {steps[-1]}"
    at = int(np.flatnonzero(~np.isnan(never[i]))[-1])
    low, middle, high = onset[i, at, 0], onset[i, at, 2], onset[i, at, 4]
    within = f"by step {budget:.0f}" if budget is not None else "within 24 times as many steps"
    source = "losses and geometry" if modes[i] == "losses" else "symmetry and geometry alone"
    told = f"at step {steps[at]}, from {source}: "
    if math.isinf(middle):
        told += f"more likely than not it does not generalise {within}"
    else:
        told += f"generalises at step {middle:.0f}"
        ends = f"{low:.0f} to {high:.0f}" if math.isfinite(high) else f"{low:.0f} or later"
        told += f" (90 % interval {ends})"
    return told + f"; chance that it does not {within}: {never[i, at]:.0%}"


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
    nodes = {}
    for node in tree.subtree:
        dataset = node.to_dataset(inherit=False)
        if "step" in dataset.dims:
            more = forecast_run(dataset, budget=budget, forecasters=forecasters)
            old = [name for name in _VARIABLES if name in dataset]
            dataset = dataset.drop_vars(old).drop_dims(_DIMS, errors="ignore").merge(more)
        nodes[node.path] = dataset
    return xr.DataTree.from_dict(nodes)


_VARIABLES = ("onset_probability", "onset", "onset_never", "forecast_verdict")
_DIMS = ("forecast_mode", "horizon", "quantile")
