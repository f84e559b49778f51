"""A run's curves, picked out of its result, or the reasons why there are none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import xarray as xr

from geomdiag.dynamics.crossings import Curve, rises_for_good
from geomdiag.errors import GeomdiagError

__all__ = ["accuracy", "curve_of", "ordered", "violations"]

#: Relative difference up to which what a run recorded is what its checkpoints give.
AGREES = 0.01


def ordered(dataset: xr.Dataset) -> xr.Dataset:
    """Return the dataset by increasing step."""
    if "step" not in dataset.coords or dataset.sizes.get("step", 0) == 0:
        raise GeomdiagError(
            "the result has no rows along 'step', so it has no stages. Give the result of one "
            "run, a node of the tree that geomdiag.analyze returns."
        )
    dataset = dataset.sortby("step")
    steps = dataset["step"].values
    if (np.diff(steps) == 0).any():
        twice = int(steps[:-1][np.diff(steps) == 0][0])
        raise GeomdiagError(f"two rows of the result share step {twice}: are two runs mixed in it?")
    return dataset


def curve_of(dataset: xr.Dataset, variable: str, what: str, **where: str) -> Curve:
    """Return one curve of a variable, or the reason why there is none."""
    empty = np.empty(0)
    if variable not in dataset:
        return Curve(what, empty, empty, f"{what} is unknown: the result has no {variable!r}")
    array = dataset[variable]
    for dim, label in where.items():
        labels = _labels(array, dim)
        if label not in labels:
            return Curve(
                what,
                empty,
                empty,
                f"{what} is unknown: {variable!r} has no {dim} {label!r} "
                f"(it has {', '.join(labels) or 'none'})",
            )
        array = array.isel({dim: labels.index(label)})
    values = np.asarray(array.transpose("step").values, dtype=np.float64)
    known = np.isfinite(values)
    steps = np.asarray(dataset["step"].values, dtype=np.float64)[known]
    reason = "" if known.any() else f"{what} is unknown: no checkpoint has a value"
    return Curve(what, steps, values[known], reason)


def _labels(array: xr.DataArray, dim: str) -> list[str]:
    """Return the labels along a dim; none where there is no such dim."""
    return [str(label) for label in array[dim].values] if dim in array.dims else []


def accuracy(dataset: xr.Dataset, part: str) -> Curve:
    """Return the accuracy on a part; without a split, say what can be said instead."""
    what = {"train": "train accuracy", "heldout": "held-out accuracy"}.get(
        part, "accuracy over all inputs"
    )
    curve = curve_of(dataset, "accuracy", what, part=part)
    if curve:
        return _denser(dataset, curve, f"{part}_accuracy")
    if part == "all" or "accuracy" not in dataset:
        return curve
    if part in _labels(dataset["accuracy"], "part"):
        reason = f"{what} is unknown: no checkpoint has a value (has the split no such inputs?)"
    else:
        reason = f"{what} is unknown because the split is: the result has no part {part!r}"
    whole = rises_for_good(curve_of(dataset, "accuracy", "accuracy over all inputs", part="all"))
    if whole.known:
        reason += f". {whole.evidence[0].upper()}{whole.evidence[1:]}"
    return Curve(what, curve.steps, curve.values, reason)


def _denser(dataset: xr.Dataset, curve: Curve, quantity: str) -> Curve:
    """Return a curve with what the run recorded of it between the checkpoints.

    Only within the checkpoints' steps, and only where the two agree at them: what was recorded
    of other inputs, or of another network, tells nothing.
    """
    if not {"history", "disagreement"} <= set(dataset.variables):
        return curve
    if quantity not in _labels(dataset["history"], "quantity"):
        return curve
    apart = dataset["disagreement"].sel(quantity=quantity).values
    own = dataset["history"].sel(quantity=quantity)
    steps = np.asarray(own["history_step"].values, dtype=np.float64)
    values = np.asarray(own.values, dtype=np.float64)
    if not np.isfinite(apart).any() or np.nanmax(apart) > AGREES:
        return curve
    more = np.isfinite(values) & (steps > curve.steps[0]) & (steps < curve.steps[-1])
    more &= ~np.isin(steps, curve.steps)
    steps = np.concatenate([curve.steps, steps[more]])
    order = np.argsort(steps, kind="stable")
    return replace(
        curve, steps=steps[order], values=np.concatenate([curve.values, values[more]])[order]
    )


def violations(dataset: xr.Dataset) -> list[Curve]:
    """Return one curve a symmetry that is to be learnt; the bounded divergence if there is one."""
    variable, words = next(
        (
            (name, words)
            for name, words in (
                ("symmetry_js", "Jensen-Shannon violation"),
                ("symmetry_violation", "symmetric KL violation"),
            )
            if name in dataset and np.isfinite(dataset[name].values).any()
        ),
        ("symmetry_violation", "symmetry violation"),
    )
    if variable not in dataset:
        return [curve_of(dataset, variable, words)]  # carries the reason
    curves = []
    empty = np.empty(0)
    for label in _labels(dataset[variable], "symmetry"):
        what = f"{words} of {label}"
        if _architectural(dataset, label):
            reason = f"{what} is the architecture's own: not acquired"
            curves.append(Curve(what, empty, empty, reason))
        else:
            curves.append(curve_of(dataset, variable, what, symmetry=label, statistic="mean"))
    return curves


def _architectural(dataset: xr.Dataset, symmetry: str) -> bool:
    name = "symmetry_architectural"
    if name not in dataset or symmetry not in _labels(dataset[name], "symmetry"):
        return False
    values = np.asarray(dataset[name].sel(symmetry=symmetry).values, dtype=np.float64)
    return bool((values == 1).any())
