"""Stages of training, from a run's own curves.

`stages` picks the curves out of a run's result, hands them to the detectors of `crossings`
and turns the boundaries into flags. It does not depend on how a boundary was found.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geomdiag.dynamics.crossings import (
    FALL,
    REACHED,
    SETTLED,
    Boundary,
    Curve,
    first_fall,
    rises_for_good,
    settles,
)
from geomdiag.errors import GeomdiagError

__all__ = ["BOUNDARIES", "stages"]

#: A violation that never exceeds this (nats) is symmetric throughout; nothing can be acquired.
SYMMETRIC = 1e-3
#: Effective dimension counts components: up to this many there is no collapse to speak of.
MIN_DIMENSION = 3.0

#: A network whose train accuracy never reaches this has not learnt the task, whatever else falls.
LEARNT = 0.5

#: Boundary name to its definition, in the order of the result's dim.
BOUNDARIES = {
    "t_memorised": f"first step from which train accuracy stays at or above {REACHED}",
    "t_symmetry": (
        "first step at which the violation of one of the symmetries has fallen by "
        f"{FALL:.0%} from its running maximum"
    ),
    "t_generalised": f"first step from which held-out accuracy stays at or above {REACHED}",
    "t_geometry": (
        "first step at which the effective dimension of the embedding has fallen by "
        f"{FALL:.0%} from its running maximum"
    ),
    "t_settled": (
        "first step from which the effective dimension of the embedding stays within "
        f"{SETTLED:.0%} of its whole fall, at least one component, of its last level"
    ),
    "t_solved": "first step with a held-out accuracy of 100 % (over all inputs without a split)",
}

_FLAGS = {
    -1: "unknown",
    0: "before",
    1: "memorisation",
    2: "symmetry_acquisition",
    3: "geometric_organisation",
}


def stages(dataset: xr.Dataset) -> xr.Dataset:
    """Return the stages of one run, with the evidence for each boundary.

    Reads ``accuracy`` (step, part), ``symmetry_js`` or else ``symmetry_violation`` (step,
    symmetry, statistic; the mean) and ``dimension`` (step, matrix, measure; the embedding's
    effective dimension). What is missing makes a boundary unknown, never an error; missing
    values are passed over. ``t_symmetry`` is the earliest fall among the symmetries.

    Parameters
    ----------
    dataset : xr.Dataset
        Result of one run, with the dim ``step``.

    Returns
    -------
    xr.Dataset
        ``stage`` (step): at a step, geometric organisation once dimension has begun to fall
        after the violation has, symmetry acquisition once the violation has, memorisation once
        train accuracy has reached its level, before until then. What is lost for a while (a
        spike of the loss) does not end a stage, what is lost for good does. A run whose train
        accuracy never reaches one half stays before all stages. Unknown where
        nothing was measured, or where what would tell is missing.
        ``stage_boundary`` (boundary): steps, NaN where there is none. ``stage_evidence``
        (boundary): what set each, or why there is none. ``stage_order`` (): whether
        memorisation, symmetry and geometry began in that order, in words that start with
        held, broken or untested.

    Raises
    ------
    GeomdiagError
        If there is no dim ``step``, it is empty or two rows share a step.
    """
    dataset = _ordered(dataset)
    train = _accuracy(dataset, "train")
    heldout = _accuracy(dataset, "heldout")
    memorised = rises_for_good(train)
    generalised = rises_for_good(heldout)
    seen_from = train.steps[0] if train else math.nan  # what happened before, no record tells
    if generalised.exists and seen_from < memorised.since >= generalised.since:
        evidence = f"{generalised.evidence}; no later than train accuracy: without delay"
        generalised = replace(generalised, evidence=evidence)
    symmetry = _symmetry(_violations(dataset), generalised, heldout)
    dimension = _curve(
        dataset,
        "dimension",
        "effective dimension of the embedding",
        matrix="embedding",
        measure="effective_dimension",
    )
    geometry = first_fall(dimension, floor=MIN_DIMENSION)
    found = {
        "t_memorised": memorised,
        "t_symmetry": symmetry,
        "t_generalised": generalised,
        "t_geometry": geometry,
        "t_settled": settles(dimension, geometry),
        "t_solved": _solved(dataset, heldout),
    }
    # Embeddings also shrink from their random start while the network memorises. That may set
    # t_geometry, and break the order; the third stage is a collapse that follows the second.
    collapse = geometry
    if symmetry.exists and dimension:
        later = dimension.steps >= symmetry.since
        rest = Curve(
            dimension.what, dimension.steps[later], dimension.values[later], "nothing is left"
        )
        collapse = replace(first_fall(rest, floor=MIN_DIMENSION), known=geometry.known)
    names = list(BOUNDARIES)
    return xr.Dataset(
        {
            "stage": (
                "step",
                _flags(dataset, {**found, "t_geometry": collapse}, train),
                {
                    "long_name": "stage of training",
                    "units": "1",
                    "flag_values": list(_FLAGS),
                    "flag_meanings": " ".join(_FLAGS.values()),
                    "definition": (
                        f"first crossings: memorisation from where train accuracy is {REACHED} "
                        "for the first time, symmetry_acquisition from t_symmetry, "
                        "geometric_organisation from where the embedding's effective dimension "
                        f"has fallen by {FALL:.0%} from its running maximum since t_symmetry; each "
                        "until it is lost for good; none where train accuracy never reaches "
                        f"{LEARNT}"
                    ),
                    "reference": "arXiv:2603.01968",
                },
            ),
            "stage_boundary": (
                "boundary",
                np.array([found[name].value for name in names]),
                {
                    "long_name": "step at which a stage begins or ends",
                    "units": "step",
                    "definition": "; ".join(f"{name}: {BOUNDARIES[name]}" for name in names),
                },
            ),
            "stage_evidence": (
                "boundary",
                _text([found[name].evidence for name in names]),
                {
                    "long_name": "what set each boundary, or why there is none",
                    "units": "1",
                    "definition": "for each entry of stage_boundary, in words: values and steps "
                    "that decided, or what is missing",
                },
            ),
            "stage_order": (
                (),
                _text(_order(memorised, symmetry, geometry)),
                {
                    "long_name": "whether the stages came in the order that was claimed",
                    "units": "1",
                    "definition": (
                        f"first step with a train accuracy of {REACHED} ≤ t_symmetry ≤ t_geometry"
                    ),
                    "reference": "arXiv:2603.01968",
                },
            ),
        },
        coords={"step": dataset["step"].variable, "boundary": _text(names)},
    )


def _ordered(dataset: xr.Dataset) -> xr.Dataset:
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


def _curve(dataset: xr.Dataset, variable: str, what: str, **where: str) -> Curve:
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


def _accuracy(dataset: xr.Dataset, part: str) -> Curve:
    """Return the accuracy on a part; without a split, say what can be said instead."""
    what = {"train": "train accuracy", "heldout": "held-out accuracy"}.get(
        part, "accuracy over all inputs"
    )
    curve = _curve(dataset, "accuracy", what, part=part)
    if curve or part == "all" or "accuracy" not in dataset:
        return curve
    if part in _labels(dataset["accuracy"], "part"):
        reason = f"{what} is unknown: no checkpoint has a value (has the split no such inputs?)"
    else:
        reason = f"{what} is unknown because the split is: the result has no part {part!r}"
    whole = rises_for_good(_curve(dataset, "accuracy", "accuracy over all inputs", part="all"))
    if whole.known:
        reason += f". {whole.evidence[0].upper()}{whole.evidence[1:]}"
    return Curve(what, curve.steps, curve.values, reason)


def _violations(dataset: xr.Dataset) -> list[Curve]:
    """Return one curve a symmetry; the bounded divergence where there is one."""
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
        return [_curve(dataset, variable, words)]  # carries the reason
    return [
        _curve(dataset, variable, f"{words} of {label}", symmetry=label, statistic="mean")
        for label in _labels(dataset[variable], "symmetry")
    ]


def _symmetry(curves: list[Curve], generalised: Boundary, heldout: Curve) -> Boundary:
    """Return the earliest fall among the symmetries, and what became of the others."""
    if not curves:
        return Boundary(math.nan, "the task declares no symmetry", known=False)
    falls = [first_fall(curve, floor=SYMMETRIC) for curve in curves]
    begun = sorted((fall for fall in falls if fall.exists), key=lambda fall: fall.value)
    if begun:
        others = [fall.evidence for fall in falls if fall is not begun[0]]
        return Boundary(
            begun[0].value,
            ". Also: ".join([begun[0].evidence, *others]),
            since=begun[0].since,
            until=max(fall.until for fall in begun),
        )
    evidence = "; ".join(fall.evidence for fall in falls)
    if heldout and generalised.exists and generalised.since == heldout.steps[0]:
        # It had generalised before anyone looked: when, this record cannot tell.
        return Boundary(
            math.nan,
            f"the run has generalised by its first checkpoint, so that symmetry was acquired "
            f"before the record begins, if at all; {evidence}",
            known=False,
        )
    return Boundary(math.nan, evidence, known=any(fall.known for fall in falls))


def _solved(dataset: xr.Dataset, heldout: Curve) -> Boundary:
    """Return the first step with no wrong answer."""
    curve = heldout or _accuracy(dataset, "all")
    if not curve:
        return Boundary(math.nan, curve.reason, known=False)
    note = "" if heldout else f" ({heldout.reason.split('. ')[0]})"
    right = curve.values >= 1 - 1e-9
    if not right.any():
        best = int(curve.values.argmax())
        return Boundary(
            math.nan,
            f"{curve.what} never reached 100 %; its best is {curve.values[best]:.2%} at step "
            f"{curve.steps[best]:.0f}{note}",
        )
    step = float(curve.steps[right.argmax()])
    return Boundary(step, f"{curve.what} is 100 % for the first time at step {step:.0f}{note}")


def _flags(dataset: xr.Dataset, found: Mapping[str, Boundary], train: Curve) -> NDArray[np.int64]:
    """Return the stage at each step."""
    steps = np.asarray(dataset["step"].values, dtype=np.float64)
    memorised, symmetry, generalised, geometry = (
        found[name] for name in ("t_memorised", "t_symmetry", "t_generalised", "t_geometry")
    )
    flags = np.zeros(len(steps), dtype=np.int64)
    flags[memorised.holds(steps)] = 1 if symmetry.known else -1  # 1, or already more
    if not memorised.known:
        flags[:] = -1
    acquiring = symmetry.holds(steps)
    flags[acquiring] = 2 if geometry.known else -1  # 2, or already 3
    if not symmetry.known and generalised.exists:
        acquiring |= generalised.holds(steps)  # who generalises has acquired it
    flags[acquiring & geometry.holds(steps)] = 3
    if train and train.values.max() < LEARNT:
        flags[:] = 0
    flags[~_measured(dataset)] = -1
    return flags


def _measured(dataset: xr.Dataset) -> NDArray[np.bool_]:
    """Return at which steps anything that tells a stage is known."""
    known = np.zeros(dataset.sizes["step"], dtype=np.bool_)
    for name in ("accuracy", "symmetry_js", "symmetry_violation", "dimension"):
        if name in dataset and "step" in dataset[name].dims:
            values: NDArray[Any] = np.asarray(dataset[name].transpose("step", ...).values)
            known |= np.isfinite(values.reshape(len(known), -1)).any(axis=1)
    return known


def _order(memorised: Boundary, symmetry: Boundary, geometry: Boundary) -> str:
    """Return whether the three stages began in their order, in words."""
    order = {
        f"train accuracy {REACHED}": memorised,
        "t_symmetry": symmetry,
        "t_geometry": geometry,
    }
    absent = [name for name, boundary in order.items() if math.isnan(boundary.since)]
    if absent:
        return f"untested: no {', no '.join(absent)}"
    steps = [boundary.since for boundary in order.values()]
    held = all(one <= other for one, other in itertools.pairwise(steps))
    told = ", ".join(f"{name} at step {step:.0f}" for name, step in zip(order, steps, strict=True))
    return f"{'held' if held else 'broken'}: {told}"


def _text(words: str | list[str]) -> NDArray[Any]:
    """Return text as objects: the one type that Zarr and netCDF both take."""
    return np.array(words, dtype=object)
