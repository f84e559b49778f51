"""Stages of training, from a run's own curves.

`stages` hands the curves of a run's result to the detectors of `crossings` and `plateau` and
turns the boundaries into flags. It does not depend on how a boundary was found.
"""

from __future__ import annotations

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
    bracket,
    rises_for_good,
    settles,
)
from geomdiag.dynamics.curves import accuracy, curve_of, ordered, violations
from geomdiag.dynamics.order import in_order, order_words
from geomdiag.dynamics.plateau import LEVEL, SAMPLES, leaves_plateau

__all__ = ["BOUNDARIES", "FACTS", "stages"]

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
        "step at which the log violation of the first of the symmetries that are not the "
        f"architecture's leaves its plateau for good, to fall by {FALL:.0%} or more"
    ),
    "t_generalised": f"first step from which held-out accuracy stays at or above {REACHED}",
    "t_acquired": (
        "first step from which the violations of all symmetries that fell stay within "
        f"{SETTLED:.0%} of their whole fall of their last levels"
    ),
    "t_geometry": (
        "step at which the log effective dimension of the embedding leaves for good the plateau "
        f"it has once the run has memorised, to fall by {FALL:.0%} or more"
    ),
    "t_settled": (
        "first step from which the effective dimension of the embedding stays within "
        f"{SETTLED:.0%} of its whole fall, at least one component, of its last level"
    ),
    "t_solved": "first step with a held-out accuracy of 100 % (over all inputs without a split)",
}

#: What stage_fact tells of each boundary.
FACTS = {
    "known": "1 if it could be looked for, 0 if what would tell is missing",
    "first": "first step at which the new state is seen, even if it is lost again",
    "lost": "step from which the state is lost for good; missing if it lasts",
    "or_earlier": "1 if the state was there when the record began",
    "p_value": "chance that noise without a break is split as well, the search included",
    "interval_prob": "probability that the interval is for; missing where it is a gap",
}

_FLAGS = {
    -1: "unknown",
    0: "before",
    1: "memorisation",
    2: "symmetry_acquisition",
    3: "geometric_organisation",
}


def stages(dataset: xr.Dataset, *, samples: int = SAMPLES, seed: int = 0) -> xr.Dataset:
    """Return the stages of one run, with an interval and the evidence for each boundary.

    Reads ``accuracy`` (step, part), with the run's own ``history`` (history_step, quantity) between
    the checkpoints where it agrees with them; ``symmetry_js`` or else ``symmetry_violation``
    (step, symmetry, statistic; the mean), without the symmetries that
    ``symmetry_architectural`` credits to the network; and ``dimension`` (step, matrix, measure;
    the embedding's effective dimension). What is missing makes a boundary unknown, never an
    error; missing values are passed over.

    Parameters
    ----------
    dataset : xr.Dataset
        Result of one run, with the dim ``step``.
    samples : int
        Replicates of the bootstraps.
    seed : int
        Of the bootstraps.

    Returns
    -------
    xr.Dataset
        ``stage`` (step): symmetry acquisition from t_symmetry on, geometric organisation from
        the later of t_acquired and t_geometry on if the dimension has not settled before,
        memorisation once train accuracy has reached its level, before until then. So a stage
        lasts until the next one begins. What is lost for a while (a
        spike of the loss) does not end a stage, what is lost for good does. A run whose train
        accuracy never reaches one half stays before all stages. Unknown where
        nothing was measured, or where what would tell is missing.
        ``stage_boundary`` (boundary): steps, NaN where there is none.
        ``stage_boundary_interval`` (boundary, ci_bound): the gap between two checkpoints, or a 90 %
        interval where a segmentation set the step. ``stage_evidence`` (boundary): what set
        each, or why there is none. ``stage_fact`` (boundary, fact): the same for machines.
        ``stage_order`` (): whether memorisation, symmetry and geometry began in that order, in
        words that start with held, broken or cannot be told. ``stage_order_probability`` ():
        how surely they did.

    Raises
    ------
    GeomdiagError
        If there is no dim ``step``, it is empty or two rows share a step.
    """
    dataset = ordered(dataset)
    train = accuracy(dataset, "train")
    heldout = accuracy(dataset, "heldout")
    memorised = rises_for_good(train)
    generalised = rises_for_good(heldout)
    seen_from = train.steps[0] if train else math.nan  # what happened before, no record tells
    if generalised.exists and seen_from < memorised.since >= generalised.since:
        evidence = f"{generalised.evidence}; no later than train accuracy: without delay"
        generalised = replace(generalised, evidence=evidence)
    curves = violations(dataset)
    falls = [
        leaves_plateau(curve, SYMMETRIC, samples=samples, seed=seed + 1 + place)
        for place, curve in enumerate(curves)
    ]
    # Embeddings also shrink from their random start while the network memorises. The collapse
    # that is claimed is the one that follows.
    dimension = curve_of(
        dataset,
        "dimension",
        "effective dimension of the embedding",
        matrix="embedding",
        measure="effective_dimension",
    )
    begin = -math.inf if math.isnan(memorised.since) else memorised.since
    geometry = leaves_plateau(dimension, MIN_DIMENSION, begin=begin, samples=samples, seed=seed)
    symmetry = _symmetry(falls, generalised, heldout)
    found = {
        "t_memorised": memorised,
        "t_symmetry": symmetry,
        "t_generalised": generalised,
        "t_acquired": _acquired(curves, falls),
        "t_geometry": geometry,
        "t_settled": settles(dimension, geometry, least=1.0),
        "t_solved": _solved(dataset, heldout),
    }
    probability = in_order([memorised, symmetry, geometry], samples, seed)
    return xr.Dataset(
        {
            "stage": (
                "step",
                _flags(dataset, found, train),
                {
                    "long_name": "stage of training",
                    "units": "1",
                    "flag_values": list(_FLAGS),
                    "flag_meanings": " ".join(_FLAGS.values()),
                    "definition": (
                        f"memorisation from where train accuracy is {REACHED} for the first time, "
                        "symmetry_acquisition from t_symmetry, geometric_organisation from the "
                        "later of t_acquired and t_geometry if the embedding's effective dimension "
                        "has not settled before t_acquired (from the later of t_generalised and "
                        "t_geometry where the violation cannot tell); each until the next begins, "
                        "or it is lost for good; none where train accuracy never reaches "
                        f"{LEARNT}"
                    ),
                    "reference": "arXiv:2603.01968",
                },
            ),
            **_boundary_variables(found),
            "stage_order": (
                (),
                _text(order_words(memorised, symmetry, geometry, probability)),
                {
                    "long_name": "whether the stages came in the order that was claimed",
                    "units": "1",
                    "definition": (
                        f"first step with a train accuracy of {REACHED} ≤ t_symmetry ≤ t_geometry: "
                        f"held where stage_order_probability is at least {LEVEL}, broken where it "
                        f"is at most {1 - LEVEL:.1f}, else it cannot be told; nor where more than "
                        f"{1 - LEVEL:.0%} of the replicates of a bootstrap lack one of them"
                    ),
                    "reference": "arXiv:2603.01968",
                },
            ),
            "stage_order_probability": (
                (),
                probability,
                {
                    "long_name": "probability that the stages came in the order that was claimed",
                    "units": "1",
                    "definition": (
                        "share of draws in order, each boundary drawn from its bootstrap and, "
                        "between two checkpoints, uniformly in log(1 + step); independently, and "
                        "given that there are all three"
                    ),
                },
            ),
        },
        coords={
            "step": dataset["step"].variable,
            "boundary": _text(list(BOUNDARIES)),
            "ci_bound": _text(["lower", "upper"]),
            "fact": _text(list(FACTS)),
        },
    )


def _boundary_variables(found: Mapping[str, Boundary]) -> dict[str, Any]:
    """Return the variables that tell of the boundaries one by one."""
    entries = [found[name] for name in BOUNDARIES]
    facts = [
        [
            float(one.known),
            one.since,
            one.until,
            float(one.or_earlier),
            one.p_value,
            one.interval_prob,
        ]
        for one in entries
    ]
    table = np.array(facts)
    table[np.isinf(table)] = math.nan
    interval = np.array([[one.lower, one.upper] for one in entries])
    interval[np.isinf(interval)] = math.nan
    return {
        "stage_boundary": (
            "boundary",
            np.array([one.value for one in entries]),
            {
                "long_name": "step at which a stage begins or ends",
                "units": "step",
                "definition": "; ".join(f"{name}: {what}" for name, what in BOUNDARIES.items()),
            },
        ),
        "stage_boundary_interval": (
            ("boundary", "ci_bound"),
            interval,
            {
                "long_name": "interval of stage_boundary",
                "units": "step",
                "definition": (
                    "t_symmetry and t_geometry: percentiles of a bootstrap of the segmentation "
                    "with autocorrelated noise, widened to the checkpoints beside them; the "
                    "others, and these where no segmentation set the step: the gap between the "
                    "last step known not to have the new state and the first that has it, which "
                    "is for no probability (interval_prob of stage_fact tells which it is). A "
                    "lower end is missing where the record begins too late"
                ),
                "ci_kind": "percentile bootstrap of t_symmetry and t_geometry, else a gap",
                "ci_prob": LEVEL,
            },
        ),
        "stage_evidence": (
            "boundary",
            _text([one.evidence for one in entries]),
            {
                "long_name": "what set each boundary, or why there is none",
                "units": "1",
                "definition": "for each entry of stage_boundary, in words: values and steps "
                "that decided, or what is missing",
            },
        ),
        "stage_fact": (
            ("boundary", "fact"),
            table,
            {
                "long_name": "what stage_evidence says, as numbers",
                "units": "step, or 1 for known, or_earlier, p_value and interval_prob",
                "definition": "; ".join(f"{name}: {what}" for name, what in FACTS.items()),
            },
        ),
    }


def _symmetry(falls: list[Boundary], generalised: Boundary, heldout: Curve) -> Boundary:
    """Return the earliest fall among the symmetries, and what became of the others."""
    if not falls:
        return Boundary(math.nan, "the task declares no symmetry", known=False)
    begun = sorted((fall for fall in falls if fall.exists), key=lambda fall: fall.value)
    if begun:
        first = begun[0]
        others = [fall.evidence for fall in falls if fall is not first]
        return replace(
            first,
            evidence=". Also: ".join([first.evidence, *others]),
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
    p_values = [fall.p_value for fall in falls if not math.isnan(fall.p_value)]
    return Boundary(
        math.nan,
        evidence,
        known=any(fall.known for fall in falls),
        p_value=min(p_values, default=math.nan),
    )


def _acquired(curves: list[Curve], falls: list[Boundary]) -> Boundary:
    """Return where the last of the symmetries that fell settles."""
    fallen = [pair for pair in zip(curves, falls, strict=True) if pair[1].exists]
    if not fallen:
        known = any(fall.known for fall in falls)
        why = "; ".join(fall.evidence for fall in falls) or "the task declares no symmetry"
        return Boundary(math.nan, f"no violation is known to have fallen: {why}", known=known)
    ends = []
    for curve, fall in fallen:
        if math.isfinite(fall.until):  # while it lasted: until it left its lowest level
            lasting = curve.values[curve.steps < fall.until]
            low, high = lasting.min(), lasting.max()
            end = int(np.flatnonzero(lasting <= low + SETTLED * (high - low))[-1]) + 1
            curve = replace(curve, steps=curve.steps[:end], values=curve.values[:end])
        ends.append(settles(curve, replace(fall, until=math.inf)))
    if absent := [end for end in ends if not end.exists]:
        return replace(absent[0], evidence="; ".join(end.evidence for end in absent))
    last = max(ends, key=lambda end: end.value)
    until = min(fall.until for _, fall in fallen)
    if math.isinf(until):
        return last
    return Boundary(
        math.nan,
        f"{last.evidence}, but it did not stay: one violation has risen again at step {until:.0f}",
        since=last.since,
        until=until,
    )


def _solved(dataset: xr.Dataset, heldout: Curve) -> Boundary:
    """Return the first step with no wrong answer."""
    curve = heldout or accuracy(dataset, "all")
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
    ((lower, step),) = gap = bracket(curve.steps, int(right.argmax()))
    return Boundary(
        step,
        f"{curve.what} is 100 % for the first time at step {step:.0f}{note}",
        since=step,
        lower=lower,
        upper=step,
        draws=gap,
    )


def _flags(dataset: xr.Dataset, found: Mapping[str, Boundary], train: Curve) -> NDArray[np.int64]:
    """Return the stage at each step."""
    steps = np.asarray(dataset["step"].values, dtype=np.float64)
    memorised, symmetry, generalised, acquired, geometry, settled = (
        found[name]
        for name in (
            "t_memorised",
            "t_symmetry",
            "t_generalised",
            "t_acquired",
            "t_geometry",
            "t_settled",
        )
    )
    flags = np.zeros(len(steps), dtype=np.int64)
    flags[memorised.holds(steps)] = 1 if symmetry.known else -1  # 1, or already more
    if not memorised.known:
        flags[:] = -1
    acquiring = symmetry.holds(steps)
    flags[acquiring] = 2 if geometry.known else -1  # 2, or already 3
    # Symmetry may settle long before the dimension moves. Until it does nothing organises.
    organising = acquiring & acquired.holds(steps) & geometry.holds(steps)
    if not symmetry.known and generalised.exists:
        # Who generalises has acquired it: when, nobody saw.
        organising = generalised.holds(steps) & geometry.holds(steps)
        acquired = generalised
    if geometry.exists and not settled.value < acquired.since:
        flags[organising] = 3
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


def _text(words: str | list[str]) -> NDArray[Any]:
    """Return text as objects: the one type that Zarr and netCDF both take."""
    return np.array(words, dtype=object)
