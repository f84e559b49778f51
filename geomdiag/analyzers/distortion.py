"""Distances between tokens in the embedding against the task's own metric."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geomdiag.analyzers._shared import key_spectrum, token_matrices
from geomdiag.analyzers.contract import Analyzer, dataset, describe
from geomdiag.metrics.distortion import TargetMetric, compare_distances, distortions, target_metric

if TYPE_CHECKING:
    from geomdiag.models.snapshot import Snapshot
    from geomdiag.tasks.contract import Task

__all__ = ["ANALYZER", "distortion"]

_PLAIN = ("spearman", "stress", "worst_case", "mean", "neighbour_recall")
_MEASURES = (*_PLAIN, *(f"{name}_intrinsic" for name in _PLAIN), "components_intrinsic")
_ABOUT = (
    "Euclidean distances of the rows against the task's, over all pairs; with _intrinsic, shortest "
    "paths over the rows' nearest-neighbour graph. spearman: rank correlation; stress: Kruskal's "
    "stress-1; worst_case: largest expansion × largest contraction; mean: mean relative error at "
    "the best scale; neighbour_recall: share of a token's nearest, as many as it has edges in the "
    "task's graph, that are among as many nearest in the task; "
    "components_intrinsic: parts of that graph before they were joined"
)
_REFERENCE = "doi:10.1007/BF02289565; arXiv:1804.03329"


def distortion(snapshot: Snapshot, task: Task) -> xr.Dataset:
    """Return ``distortion``, ``distortion_key`` and ``distortion_key_block`` over (matrix,).

    The task's metric is the natural order's; a network that draws the circle of frequency k
    visits the tokens in another order, whose metric ``distortion_key`` takes: the strongest
    key block that can order the tokens. It is missing where there is none. Where answers
    are distances and the snapshot has logits, ``predicted_distortion`` is that of the answers.
    """
    matrices = token_matrices(snapshot)
    natural, ordered, labels = [], [], []
    for name, matrix in matrices.items():
        shared: dict[bytes, Any] = {}
        natural.append(_numbers(matrix.values, _target(task, 0), shared))
        block = _ordering_block(snapshot, task, name)
        labels.append(task.basis.labels[block] if block else "")
        ordered.append(
            _numbers(matrix.values, _target(task, block), shared)
            if block
            else [np.nan] * len(_MEASURES)
        )
    predicted = {}
    if task.class_distances is not None and not snapshot.missing("logits"):
        predicted["predicted_distortion"] = describe(
            ("measure",),
            np.array(_predicted(snapshot, task, task.class_distances)),
            "distortion of the task's metric by the answers",
            "1",
            "expected distance under the output distribution, mean of both directions, against the "
            "task's, over all pairs of different tokens; measures as for distortion, those with "
            "_intrinsic missing",
            _REFERENCE,
        )
    return dataset(
        {
            "distortion": describe(
                ("matrix", "measure"),
                np.array(natural),
                "distortion of the task's metric",
                "1",
                _ABOUT,
                _REFERENCE,
            ),
            "distortion_key": describe(
                ("matrix", "measure"),
                np.array(ordered),
                "distortion of the task's metric, re-ordered by the strongest key frequency",
                "1",
                f"as distortion, the tokens ordered by distortion_key_block. {_ABOUT}",
                _REFERENCE,
            ),
            "distortion_key_block": describe(
                ("matrix",),
                np.array(labels, dtype=object),
                "block that orders the tokens for distortion_key",
                "1",
                "strongest key block that generates the group; empty where there is none",
            ),
            **predicted,
        },
        {"matrix": list(matrices), "measure": list(_MEASURES)},
    )


def _numbers(values: Any, target: TargetMetric, shared: dict[bytes, Any]) -> list[float]:
    found = distortions(np.asarray(values), target, shared=shared)
    return [found[name] for name in _MEASURES]


def _predicted(snapshot: Snapshot, task: Task, values: NDArray[np.float64]) -> list[float]:
    """Return the distortion of the expected answers; NaN where a logit is."""
    expected = np.exp(snapshot.log_probabilities.astype(np.float64)) @ values
    distances = np.zeros((task.tokens, task.tokens))
    distances[task.inputs[:, 0], task.inputs[:, 1]] = expected
    np.fill_diagonal(distances, 0.0)
    if np.isnan(distances).any():
        return [np.nan] * len(_MEASURES)
    found = compare_distances(0.5 * (distances + distances.T), _target(task, 0))
    return [found.get(name, np.nan) for name in _MEASURES]


@lru_cache(maxsize=64)
def _target(task: Task, block: int) -> TargetMetric:
    """Return the task's metric, re-ordered by a block unless that is 0."""
    ordered = task.metric_for(block) if block else None
    if ordered is None:
        return target_metric(task.metric, task.degrees)
    return target_metric(ordered)


def _ordering_block(snapshot: Snapshot, task: Task, name: str) -> int:
    """Return the strongest key block of a matrix whose order has a metric, else 0."""
    spectrum = key_spectrum(snapshot, task, name)
    if spectrum is None:
        return 0
    strongest = np.argsort(-spectrum.fractions, kind="stable") + 1
    keys = (int(block) for block in strongest if spectrum.key[block - 1])
    return next((block for block in keys if task.metric_for(block) is not None), 0)


def _applies(task: Task) -> str:
    return "" if task.tokens > 2 else "the task has fewer than three tokens: distances say nothing"


ANALYZER = Analyzer(
    "distortion",
    distortion,
    needs=("embedding",),
    applies=_applies,
    variables=(
        "distortion",
        "distortion_key",
        "distortion_key_block",
        "predicted_distortion",
    ),
)
