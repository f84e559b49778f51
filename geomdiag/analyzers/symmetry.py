"""How far the network's outputs are from the symmetries of its task."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geomdiag.analyzers._shared import answered_right
from geomdiag.analyzers.contract import Analyzer, dataset, describe
from geomdiag.errors import TaskError
from geomdiag.metrics._array import to_float64
from geomdiag.metrics.composition import composition_violation
from geomdiag.metrics.fit import log_softmax, logit_scale
from geomdiag.metrics.symmetry import PARTS, STATISTICS, ViolationSummary, equivalence_violation
from geomdiag.tasks.contract import Equivalence, Symmetry

if TYPE_CHECKING:
    from geomdiag.models.snapshot import Snapshot
    from geomdiag.tasks.contract import Task

__all__ = ["ANALYZER", "symmetry", "symmetry_violation"]

_REFERENCE = "arXiv:2603.01968"
_STATISTICS = tuple(STATISTICS)
_KL = (
    "½(KL(p‖q) + KL(q‖p)) between the output distributions over the task's classes of the two "
    "inputs of an instance, after the symmetry's relabelling of the classes (for compositions: "
    "of the whole and of what its parts compose to); statistics over the instances (all of them, "
    "unless symmetry_exact says otherwise)"
)
_JS = (
    "H(mean p) − mean H(p) of the orbit an instance lies in, or of the pair where instances are "
    "listed pairs or compositions; bounded by the log of the number of outputs"
)


def symmetry_violation(
    logits: Any, task: Task, *, statistics: Sequence[str] = _STATISTICS
) -> xr.DataArray:
    """Return how far outputs are from each symmetry of a task.

    Parameters
    ----------
    logits : (n, classes) array
        Logits over the task's classes for all its inputs, in the order of ``task.inputs``.
        NumPy array, torch tensor or nested list; worked on in double precision.
    task : Task
        What was to be learnt.
    statistics : sequence of str
        Of mean, p50, p95, max. The mean alone costs a fraction of all four.

    Returns
    -------
    xr.DataArray
        (symmetry, statistic), nats: symmetric KL divergence over the symmetry's instances. NaN
        where a logit is NaN.

    Raises
    ------
    TaskError
        If the logits do not fit the task.

    References
    ----------
    Hwang & Park 2026, arXiv 2603.01968.

    Examples
    --------
    >>> import numpy as np
    >>> import geomdiag as gd
    >>> task = gd.task("modadd:p=5")
    >>> right = 9.0 * np.eye(5)[task.answers]
    >>> float(abs(gd.symmetry_violation(right, task)).max())
    0.0
    """
    expected = (len(task.inputs), task.classes)
    logits = logits if hasattr(logits, "shape") else np.asarray(logits, dtype=np.float64)
    if tuple(logits.shape) != expected:
        raise TaskError(
            f"the logits have shape {tuple(logits.shape)}, but {task.name} needs {expected}: one "
            "row for each input, in the order of task.inputs, and one column for each class"
        )
    log_p = log_softmax(to_float64(logits))
    shared: dict[object, Any] = {}
    rows = [_violation(log_p, one, None, tuple(statistics), shared) for one in task.symmetries]
    dims, values, attrs = describe(
        ("symmetry", "statistic"),
        np.array([[row.kl[name] for name in statistics] for row in rows]),
        "symmetry violation",
        "nat",
        _KL,
        _REFERENCE,
        higher_is_better=False,
    )
    coords = {"symmetry": [one.name for one in task.symmetries], "statistic": list(statistics)}
    return xr.DataArray(values, coords, dims, "symmetry_violation", attrs)


def symmetry(snapshot: Snapshot, task: Task) -> xr.Dataset:
    """Return the violation of every symmetry of the task, and what the split gives away.

    Parameters
    ----------
    snapshot : Snapshot
        With logits.
    task : Task
        What was to be learnt.

    Returns
    -------
    xr.Dataset
        See the attributes of its variables. Some need a split.
    """
    symmetries = task.symmetries
    log_p, shared = snapshot.log_probabilities, dict[object, Any]()
    rows = [_violation(log_p, one, snapshot.train, _STATISTICS, shared) for one in symmetries]
    architectural = [
        isinstance(one, Equivalence) and one.swaps_operands and snapshot.swap_invariant
        for one in symmetries
    ]
    table = ("symmetry", "statistic")
    data = {
        "symmetry_violation": describe(
            table,
            np.array([[row.kl[name] for name in _STATISTICS] for row in rows]),
            "symmetry violation",
            "nat",
            _KL,
            _REFERENCE,
            higher_is_better=False,
        ),
        "symmetry_js": describe(
            table,
            np.array([[row.js[name] for name in _STATISTICS] for row in rows]),
            "symmetry violation, Jensen-Shannon",
            "nat",
            _JS,
            "doi:10.1109/18.61115",
            higher_is_better=False,
        ),
        "symmetry_instances": describe(
            ("symmetry",),
            np.array([row.instances for row in rows], dtype=np.int64),
            "number of instances",
            "1",
            "pairs of inputs that the symmetry relates (ordered, an input with itself included; of "
            "antisymmetry each pair once, none with itself), or for compositions triples",
        ),
        "symmetry_exact": describe(
            table,
            np.array([[row.exact[name] for name in _STATISTICS] for row in rows]),
            "whether a statistic is over all instances",
            "1",
            "0: of a seeded sample; symmetry_js of an equivalence is over all instances always",
        ),
        "symmetry_architectural": describe(
            ("symmetry",),
            np.array(architectural),
            "whether the architecture enforces the symmetry",
            "1",
            "1: the network cannot tell the order of its operands, so that no learning shows in "
            "this violation",
        ),
        "logit_scale": describe(
            (),
            np.float64(logit_scale(snapshot.logits)),
            "scale of the logits",
            "1",
            "root mean square of the logits after centring each input over the classes: near 0 "
            "every output is alike, and every symmetry seems to hold",
        ),
    }
    coords: dict[str, Any] = {
        "symmetry": [one.name for one in symmetries],
        "statistic": list(_STATISTICS),
    }
    errors = [np.nan if row.standard_error is None else row.standard_error for row in rows]
    if np.isfinite(errors).any():
        data["symmetry_standard_error"] = describe(
            ("symmetry",),
            np.array(errors),
            "standard error of the mean violation",
            "nat",
            "where the instances are a sample",
        )
    nothing = dict.fromkeys(_STATISTICS, np.nan)
    if any(row.directed is not None for row in rows):
        data["symmetry_violation_directed"] = describe(
            table,
            np.array([[(row.directed or nothing)[name] for name in _STATISTICS] for row in rows]),
            "symmetry violation, one direction",
            "nat",
            "for compositions: KL(p‖q) of the composed distribution p and that of the whole, q; "
            "symmetry_violation has the mean of both directions",
            _REFERENCE,
            higher_is_better=False,
        )
    if any(row.lost_mass is not None for row in rows):
        data["symmetry_lost_mass"] = describe(
            table,
            np.array([[(row.lost_mass or nothing)[name] for name in _STATISTICS] for row in rows]),
            "probability of distances that are no class",
            "1",
            "of the convolution, before it was cut to the classes and normalised again: beyond the "
            "last class or, where edges differ in length, between classes",
        )
    if snapshot.train is not None:
        data |= _by_split(rows, snapshot, task)
        coords |= {"touches": list(PARTS), "covered": ["covered", "uncovered"]}
    return dataset(data, coords)


def _violation(
    log_p: Any,
    one: Symmetry,
    train: NDArray[np.bool_] | None,
    statistics: tuple[str, ...],
    shared: dict[object, Any],
) -> ViolationSummary:
    if isinstance(one, Equivalence):
        return equivalence_violation(
            log_p,
            orbits=one.orbits,
            pairs=one.pairs,
            alignment=one.alignment,
            relabelling=one.relabelling,
            train=train,
            statistics=statistics,
            shared=shared,
        )
    return composition_violation(
        log_p,
        rule=one.rule,
        whole=one.whole,
        parts=one.parts,
        odds=one.odds,
        sums=one.sums,
        train=train,
        exact=one.exact,
    )


def _by_split(rows: Sequence[ViolationSummary], snapshot: Snapshot, task: Task) -> dict[str, Any]:
    """Return what a known split adds."""
    train = snapshot.train
    if train is None:
        return {}
    violations = np.full((len(rows), len(PARTS), len(_STATISTICS)), np.nan)
    for number, row in enumerate(rows):
        for place, part in enumerate(PARTS if row.by_part is not None else ()):
            found = (row.by_part or {})[part]
            violations[number, place] = [found[name] for name in _STATISTICS]
    own = answered_right(snapshot, task)[~train]
    shares, accuracies = [], []
    for covered in _covered(task, train.tobytes()):
        if covered is None:
            shares.append(np.nan)
            accuracies.append([np.nan, np.nan])
            continue
        shares.append(covered.mean())
        accuracies.append(
            [own[rows].mean() if rows.any() else np.nan for rows in (covered, ~covered)]
        )
    return {
        "symmetry_violation_part": describe(
            ("symmetry", "touches", "statistic"),
            violations,
            "symmetry violation by part of the data",
            "nat",
            "as symmetry_violation, over the instances whose inputs are all trained on (train), "
            "all held out (heldout), or some of each (mixed)",
            _REFERENCE,
            higher_is_better=False,
        ),
        "coverage": describe(
            ("symmetry",),
            np.array(shares),
            "share of held-out inputs that the symmetry gives away",
            "1",
            "held-out inputs whose orbit meets the train set, over all held-out inputs",
        ),
        "covered_accuracy": describe(
            ("symmetry", "covered"),
            np.array(accuracies),
            "accuracy on covered and on other held-out inputs",
            "1",
            "covered: the input's orbit under the symmetry meets the train set",
            higher_is_better=True,
        ),
    }


@lru_cache(maxsize=8)
def _covered(task: Task, mask: bytes) -> tuple[NDArray[np.bool_] | None, ...]:
    """Return which held-out inputs each symmetry hands over; None for compositions.

    `mask` holds which inputs were trained on; it is the same at every step of a run.
    """
    train = np.frombuffer(mask, dtype=bool)
    found: list[NDArray[np.bool_] | None] = []
    for labels in _components(task):
        if labels is None or train.all():
            found.append(None)
            continue
        met = np.bincount(labels[train], minlength=labels.max() + 1) > 0
        found.append(met[labels[~train]])
    return tuple(found)


@lru_cache(maxsize=8)
def _components(task: Task) -> tuple[NDArray[np.int64] | None, ...]:
    """Return, for each symmetry, the class of each input; None for compositions."""
    count = len(task.inputs)
    return tuple(
        one.components(count) if isinstance(one, Equivalence) else None for one in task.symmetries
    )


def _applies(task: Task) -> str:
    return "" if task.symmetries else f"{task.name} declares no symmetry"


ANALYZER = Analyzer(
    "symmetry",
    symmetry,
    needs=("logits",),
    applies=_applies,
    variables=(
        "symmetry_violation",
        "symmetry_js",
        "symmetry_violation_directed",
        "symmetry_instances",
        "symmetry_exact",
        "symmetry_architectural",
        "logit_scale",
        "symmetry_standard_error",
        "symmetry_lost_mass",
        "symmetry_violation_part",
        "coverage",
        "covered_accuracy",
    ),
    static=("symmetry_instances", "symmetry_exact", "symmetry_architectural", "coverage"),
    version=2,
)
