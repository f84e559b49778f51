"""How well the network does the task: accuracy and loss, over all inputs and by split part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from geomdiag.analyzers._shared import answered_right
from geomdiag.analyzers.contract import Analyzer, dataset, describe
from geomdiag.metrics.fit import negative_log_likelihood

if TYPE_CHECKING:
    from geomdiag.models.snapshot import Snapshot
    from geomdiag.tasks.contract import Task

__all__ = ["ANALYZER", "fit"]


def fit(snapshot: Snapshot, task: Task) -> xr.Dataset:
    """Return ``accuracy`` and ``loss`` over (part,).

    Parameters
    ----------
    snapshot : Snapshot
        With logits.
    task : Task
        What was to be learnt.

    Returns
    -------
    xr.Dataset
        ``part`` is all, and with a known split train and heldout; NaN for an empty part.
    """
    right = answered_right(snapshot, task)
    losses = negative_log_likelihood(snapshot.log_probabilities, task.answers)
    parts = {"all": np.ones(len(right), dtype=bool)}
    if snapshot.train is not None:
        parts |= {"train": snapshot.train, "heldout": ~snapshot.train}
    means = {
        name: (right[rows].mean(), losses[rows].mean()) if rows.any() else (np.nan, np.nan)
        for name, rows in parts.items()
    }
    return dataset(
        {
            "accuracy": describe(
                ("part",),
                np.array([accuracy for accuracy, _ in means.values()]),
                "accuracy",
                "1",
                "share of inputs whose largest logit, over the task's classes, is the answer's; a "
                "tie counts for the first class",
                higher_is_better=True,
            ),
            "loss": describe(
                ("part",),
                np.array([loss for _, loss in means.values()]),
                "cross-entropy",
                "nat",
                "mean over inputs of −log p(answer), softmax over the task's classes",
                higher_is_better=False,
            ),
        },
        {"part": list(means)},
    )


ANALYZER = Analyzer("fit", fit, needs=("logits",), variables=("accuracy", "loss"))
