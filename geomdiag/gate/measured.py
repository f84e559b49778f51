"""The numbers that the gate compares: of every setting's runs, at their last step."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from geomdiag.dynamics.corpus import signals_of
from geomdiag.dynamics.curves import ordered
from geomdiag.errors import BaselineError

__all__ = ["Measured", "measure"]

#: Name of the setting where runs have none, and where numbers come without a run.
UNNAMED = "result"


@dataclass(frozen=True)
class Measured:
    """The numbers of the runs of one setting.

    Attributes
    ----------
    name : str
        What the names of its runs share.
    values : dict of str to tuple of float
        Metric to its value in each run; NaN where a run has none.
    task : str
        Empty where it is not known.
    runs : tuple of str
        Names, in the order of the values.
    higher_is_better : dict of str to bool
        As the result's variables say; metrics without a say are left out.
    reasons : dict of str to str
        Why a metric, or all that begin with a name, has no value.
    """

    name: str
    values: dict[str, tuple[float, ...]]
    task: str = ""
    runs: tuple[str, ...] = ()
    higher_is_better: dict[str, bool] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def why(self, metric: str) -> str:
        """Return why a metric has no value, in words."""
        for name in (metric, metric.partition("[")[0]):
            if name in self.reasons:
                return self.reasons[name]
        if metric in self.values:
            return "it is no finite number"
        return "the result has no such number"


def measure(
    result: xr.DataTree | xr.Dataset | Mapping[str, float | Sequence[float]],
) -> list[Measured]:
    """Return the numbers of a result, by setting.

    Parameters
    ----------
    result : xr.DataTree, xr.Dataset, or mapping of str to float or sequence of float
        As `geomdiag.analyze` gives it, one run of it, or numbers by name (one a seed).

    Returns
    -------
    list of Measured
        One a setting: runs whose names differ only in a last part like ``seed=3`` are seeds of
        one setting, any other run is a setting of its own. Metrics are
        ``variable[label,...]`` at the run's last step, and the steps ``t_memorised``,
        ``t_generalised``, ... at which its stages begin.

    Raises
    ------
    BaselineError
        If there is no run, or a value is no number.
    GeomdiagError
        If a run has no steps.
    """
    if isinstance(result, xr.Dataset):
        return [_setting(_name_of(str(result.attrs.get("run", UNNAMED))), [result])]
    if not isinstance(result, xr.DataTree):
        return [_numbers(result)]
    groups: dict[str, list[xr.Dataset]] = {}
    for name, node in result.children.items():
        dataset = node.to_dataset()
        groups.setdefault(_name_of(str(dataset.attrs.get("run", name))), []).append(dataset)
    if not groups:
        raise BaselineError(
            "the result holds no runs; expected a tree with one node a run, as geomdiag.analyze "
            "gives it"
        )
    return [_setting(name, runs) for name, runs in groups.items()]


def _name_of(run: str) -> str:
    """Return the setting that a run belongs to."""
    setting, _, last = run.rpartition("/")
    return (setting or UNNAMED) if re.fullmatch(r"seed\W?\d+", last) else run


def _numbers(given: Mapping[str, float | Sequence[float]]) -> Measured:
    values: dict[str, tuple[float, ...]] = {}
    for name, value in given.items():
        try:
            array = np.atleast_1d(np.asarray(value, dtype=np.float64))
        except (TypeError, ValueError):
            raise BaselineError(
                f"{name!r} is {value!r}; expected a number, or one number a seed"
            ) from None
        if array.ndim > 1 or not array.size:
            raise BaselineError(
                f"{name!r} has the shape {array.shape}; expected a number, or one number a seed"
            )
        values[str(name)] = tuple(array.tolist())
    if not values:
        raise BaselineError("no numbers were given; expected a mapping of names to numbers")
    return Measured(UNNAMED, values)


def _setting(name: str, runs: Sequence[xr.Dataset]) -> Measured:
    tasks = {str(run.attrs.get("task", "")) for run in runs}
    if len(tasks) > 1:
        raise BaselineError(
            f"the runs of {name!r} are of different tasks ({', '.join(sorted(tasks))}); give "
            "them names that differ in more than their seed"
        )
    better: dict[str, bool] = {}
    reasons: dict[str, str] = {}
    found = [_last(run, better, reasons) for run in runs]
    metrics = dict.fromkeys(metric for one in found for metric in one)
    return Measured(
        name,
        {metric: tuple(one.get(metric, math.nan) for one in found) for metric in metrics},
        tasks.pop(),
        tuple(str(run.attrs.get("run", name)) for run in runs),
        better,
        reasons,
    )


def _last(given: xr.Dataset, better: dict[str, bool], reasons: dict[str, str]) -> dict[str, float]:
    """Return one run's numbers; tells also which direction is better, and why some are missing."""
    run = ordered(given)
    if "status" in run and str(run["status"].values[-1]) != "ok":
        step, error = int(run["step"].values[-1]), str(run["error"].values[-1])
        last = f"the last checkpoint (step {step}) is {run['status'].values[-1]}: {error}"
    else:
        last = ""
    found = {metric: float(column[-1]) for metric, column in signals_of(run).items()}
    for metric, value in found.items():
        attrs = run[metric.partition("[")[0]].attrs
        if "higher_is_better" in attrs:
            better[metric] = bool(attrs["higher_is_better"])
        if last and math.isnan(value):
            reasons[metric] = last
    try:
        told = json.loads(run.attrs.get("not_computed") or "{}")
    except ValueError:
        told = {}
    reasons |= {str(name): f"not computed: {why}" for name, why in told.items()}
    if "stage_boundary" in run and run["stage_boundary"].dims == ("boundary",):
        for name in run["boundary"].values.tolist():
            found[str(name)] = value = float(run["stage_boundary"].sel(boundary=name))
            if math.isnan(value) and "stage_evidence" in run:
                reasons[str(name)] = str(run["stage_evidence"].sel(boundary=name).values)
    return found
