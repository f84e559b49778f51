"""Group structure of the logits: their spectrum, equivariance and progress measures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from geomdiag.analyzers._shared import CHARACTER, block_labels, key_spectrum, shares_group
from geomdiag.analyzers.contract import Analyzer, dataset, describe
from geomdiag.errors import MissingPartError
from geomdiag.metrics.group_logits import translation_sums
from geomdiag.metrics.progress import distance_irrelevance, progress_losses

if TYPE_CHECKING:
    from geomdiag.models.snapshot import Snapshot
    from geomdiag.tasks.contract import LogitGroup, Task

__all__ = ["ANALYZER", "progress"]

_NANDA = "arXiv:2301.05217"
_CHUGHTAI = "arXiv:2302.03025"
_KEYS = (
    "key blocks: those of the embeddings at this very checkpoint (none of them early on); "
    "missing where the network shows no embedding"
)


def progress(snapshot: Snapshot, task: Task) -> xr.Dataset:
    """Return what the logits tell about a task whose inputs and classes share a group.

    Parameters
    ----------
    snapshot : Snapshot
        With logits; the restricted and excluded loss also need an embedding, the excluded
        loss a split.
    task : Task
        With a `logit_group`.

    Returns
    -------
    xr.Dataset
        ``logit_power`` and ``logit_similarity`` (block,), ``equivariant_share``,
        ``equivariance_error`` (operand,), ``restricted_loss``, ``excluded_loss`` and, for cyclic
        groups, ``distance_irrelevance``.
    """
    group = task.logit_group
    if group is None:
        raise MissingPartError(shares_group(task))
    logits = snapshot.logits
    plain: dict[str, Any] = {
        "order": group.order,
        "inputs": group.inputs,
        "result": group.result,
        "classes": group.classes,
    }
    operands: dict[str, Any] = {"left": group.left, "right": group.right}
    sums = translation_sums(logits, **plain, **operands, table=group.table)
    found, errors = sums.spectrum(group.characters), sums.errors()
    split = snapshot.train is not None
    restricted = excluded = np.nan
    if (keys := _keys(snapshot, task, group)) is not None:
        # over all classes in order the sums are, but for the centring, the means wanted here
        whole = np.array_equal(group.classes, np.arange(logits.shape[1]))
        means = sums.by_result / group.order if whole else None
        restricted, excluded = progress_losses(
            logits,
            keys,
            **plain,
            table=group.table,
            characters=group.characters,
            degrees=group.degrees,
            train=snapshot.train,
            means=means,
        )
    data: dict[str, Any] = {
        "logit_power": describe(
            ("block",),
            np.asarray(found.power),
            "share of the logits that a block explains",
            "1",
            f"share of the centred logits explained by {CHARACTER}; r = xy",
            f"{_NANDA}; {_CHUGHTAI}",
        ),
        "logit_similarity": describe(
            ("block",),
            found.similarity,
            "cosine between the logits and a block's character",
            "1",
            f"between the centred logits and {CHARACTER}; logit_power is its square",
            _CHUGHTAI,
        ),
        "equivariant_share": describe(
            (),
            np.float64(found.equivariant_share),
            "share of the logits that is exactly equivariant",
            "1",
            "share of the centred logits explained by all functions of x⁻¹zy⁻¹ (of r − z, "
            "sines included, in an abelian group): what translating either operand and the "
            "answer together leaves alone",
            _NANDA,
            higher_is_better=True,
        ),
        "equivariance_error": describe(
            ("operand",),
            np.array([errors["left"], errors["right"]]),
            "translation error of the logits",
            "1",
            "mean over g ≠ e of ‖L(gx, y)[gz] − L(x, y)[z]‖² / 2‖L‖² on centred logits for the "
            "left operand, with L(x, yg)[zg] for the right; 1: as good as unrelated",
            higher_is_better=False,
        ),
        "restricted_loss": describe(
            (),
            np.float64(restricted),
            "restricted loss",
            "nat",
            "cross-entropy over all inputs of the group of the logits' mean plus their "
            f"components, as functions of xy, in the key blocks alone. {_KEYS}",
            _NANDA,
            higher_is_better=False,
        ),
        "excluded_loss": describe(
            (),
            np.float64(excluded if split else np.nan),
            "excluded loss",
            "nat",
            "cross-entropy over the train inputs of the logits without their components in the "
            f"key blocks; missing without a split. {_KEYS}",
            _NANDA,
        ),
    }
    if group.table is None:  # only a cyclic group's operands have a distance
        data["distance_irrelevance"] = describe(
            (),
            np.float64(distance_irrelevance(logits, **plain, **operands)),
            "distance irrelevance",
            "1",
            "for cyclic groups: mean over the operands' distance d of the standard deviation, over "
            "i, of the right answer's logit for (i, i + d), over its standard deviation over all "
            "inputs",
            "arXiv:2306.17844",
        )
    return dataset(data, {"block": block_labels(group)[1:], "operand": ["left", "right"]})


def _keys(snapshot: Snapshot, task: Task, group: LogitGroup) -> list[int] | None:
    """Return the key blocks of the embeddings, None where there is no embedding."""
    place = {label: block for block, label in enumerate(block_labels(group))}
    keys: set[int] = set()
    names = [name for name in ("embedding", "embedding_right") if name in snapshot.matrices]
    for name in names:
        if (own := key_spectrum(snapshot, task, name)) is not None:
            keys.update(place[task.basis.labels[block]] for block in own.blocks())
    return sorted(keys) if names else None


ANALYZER = Analyzer(
    "progress",
    progress,
    needs=("logits",),
    applies=shares_group,
    variables=(
        "logit_power",
        "logit_similarity",
        "equivariant_share",
        "equivariance_error",
        "restricted_loss",
        "excluded_loss",
        "distance_irrelevance",
    ),
    version=2,
)
