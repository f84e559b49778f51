"""What is lost of the logits with, and without, each irreducible representation's character."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from geomdiag.analyzers._shared import CHARACTER, block_labels, shares_group
from geomdiag.analyzers.contract import Analyzer, dataset, describe
from geomdiag.errors import MissingPartError
from geomdiag.metrics.irreps import character_losses

if TYPE_CHECKING:
    from geomdiag.models.snapshot import Snapshot
    from geomdiag.tasks.contract import Task

__all__ = ["ANALYZER", "irreps"]

_CHUGHTAI = "arXiv:2302.03025"


def irreps(snapshot: Snapshot, task: Task) -> xr.Dataset:
    """Return ``irrep_restricted_loss`` and ``irrep_excluded_loss`` over (block,).

    Parameters
    ----------
    snapshot : Snapshot
        With logits; the excluded loss also needs a split.
    task : Task
        With a `logit_group`.
    """
    group = task.logit_group
    if group is None:
        raise MissingPartError(shares_group(task))
    found = character_losses(
        snapshot.logits,
        order=group.order,
        inputs=group.inputs,
        left=group.left,
        right=group.right,
        result=group.result,
        classes=group.classes,
        table=group.table,
        characters=group.characters,
        train=snapshot.train,
    )
    split = snapshot.train is not None
    return dataset(
        {
            "irrep_restricted_loss": describe(
                ("block",),
                found.restricted,
                "loss of one block's character alone",
                "nat",
                "cross-entropy, over the group's classes, of nothing but the logits' component of "
                f"{CHARACTER}. Unlike restricted_loss it keeps one function of input and class",
                _CHUGHTAI,
                higher_is_better=False,
            ),
            "irrep_excluded_loss": describe(
                ("block",),
                found.excluded if split else np.full(len(found.excluded), np.nan),
                "loss without one block's character",
                "nat",
                "cross-entropy over the train inputs of the group, and its classes, of the logits "
                f"less their component of {CHARACTER}; missing without a split",
                _CHUGHTAI,
            ),
        },
        {"block": block_labels(group)[1:]},
    )


ANALYZER = Analyzer(
    "irreps",
    irreps,
    needs=("logits",),
    applies=shares_group,
    variables=("irrep_restricted_loss", "irrep_excluded_loss"),
    default=False,  # an exponential of every logit, once more
)
