"""How the embedding lays out the ranks of the task's attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from geomdiag.analyzers.contract import Analyzer, dataset, describe
from geomdiag.metrics.order import (
    additivity,
    additivity_null,
    axis_angles,
    order_readout,
    step_evenness,
)

if TYPE_CHECKING:
    from geomdiag.models.snapshot import Snapshot
    from geomdiag.tasks.contract import Task

__all__ = ["ANALYZER", "order"]

_MEASURES = ("r2_loo", "kendall_tau", "evenness")


def order(snapshot: Snapshot, task: Task) -> xr.Dataset:
    """Return ``order`` over (attribute, measure), ``additivity`` and the axes' angles."""
    embedding = np.asarray(snapshot.embedding)
    names, ranks = list(task.orders), list(task.orders.values())
    rows = [[*order_readout(embedding, rank), step_evenness(embedding, rank)] for rank in ranks]
    return dataset(
        {
            "order": describe(
                ("attribute", "measure"),
                np.array(rows),
                "order of the attribute's ranks in the embedding",
                "1",
                "r2_loo: R² of each token's rank read off its row by ridge regression on the other "
                "tokens, the penalty set by the rows alone (at most n // 2 effective degrees of "
                "freedom): 1 for a grid, on average 0 or less under relabelled tokens; "
                "kendall_tau: Kendall's τ of those left-out predictions with the rank, over pairs "
                "of different rank: 1 all in order, 0 or less no relation (never a reversed order: "
                "the read-out finds its direction); evenness: ‖Σδ‖² / ((s − 1) Σ‖δ‖²) of the "
                "steps δ between the mean rows of successive ranks (s of them): 1 for equal steps "
                "along a line, about 1/(s − 1)² for random rows",
                "doi:10.1080/00401706.1974.10489157; doi:10.1093/biomet/30.1-2.81; "
                "doi:10.2307/2090408",
                higher_is_better=True,
            ),
            "additivity": describe(
                (),
                np.float64(additivity(embedding, ranks)),
                "share of the embedding's variance that is additive in the attributes",
                "1",
                "share explained by the best sum of one vector for each attribute's rank; exactly "
                "1 for a grid, on average additivity_null under relabelled tokens",
                higher_is_better=True,
            ),
            "additivity_null": describe(
                (),
                np.float64(additivity_null(ranks)),
                "additivity of relabelled tokens",
                "1",
                "mean of additivity over all relabellings of the tokens: the dimension of the "
                "additive functions over the number of tokens less one. 1 (a single attribute "
                "without ties): additivity says nothing",
            ),
            "axis_angle": describe(
                ("attribute", "other_attribute"),
                axis_angles(embedding, ranks),
                "angle between the axes of two attributes",
                "rad",
                "between the rows of coefficients of the embedding regressed on the ranks of all "
                "attributes: 0 where ranks rise together, π/2 perpendicular, as random directions "
                "nearly are",
            ),
        },
        {"attribute": names, "other_attribute": names, "measure": list(_MEASURES)},
    )


def _applies(task: Task) -> str:
    if not task.orders:
        return f"the tokens of {task.name} have no order"
    return "" if task.tokens > 2 else "the task has fewer than three tokens: order says nothing"


ANALYZER = Analyzer(
    "order",
    order,
    needs=("embedding",),
    applies=_applies,
    variables=("order", "additivity", "additivity_null", "axis_angle"),
    static=("additivity_null",),
)
