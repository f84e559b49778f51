"""The ellipse that the tokens trace at each key character (frequency) of a matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from geomdiag.analyzers._characters import abelian, block_phases, character_matrices
from geomdiag.analyzers._shared import key_spectrum, principal
from geomdiag.analyzers.contract import Analyzer, dataset, describe
from geomdiag.metrics.circle import circle_fit, pizza_circularity

if TYPE_CHECKING:
    from geomdiag.models.snapshot import Snapshot
    from geomdiag.tasks.contract import Task

__all__ = ["ANALYZER", "circle"]

_MEASURES = ("axis_ratio", "in_plane_share", "phase_error", "circularity")


def circle(snapshot: Snapshot, task: Task) -> xr.Dataset:
    """Return ``circle`` over (matrix, block, measure) and ``pizza_circularity`` over (matrix,).

    Only key blocks have a circle; the others are missing, as noise traces ellipses too.
    """
    found = character_matrices(snapshot, task)
    labels = list(dict.fromkeys(one for _, b in found.values() for one in b.labels[1:]))
    place = {label: number for number, label in enumerate(labels)}
    # By far the largest variable of a result: single precision is what the weights had.
    fits = np.full((len(found), len(labels), len(_MEASURES)), np.nan, dtype=np.float32)
    pizza = np.full(len(found), np.nan)
    for number, (name, (matrix, basis)) in enumerate(found.items()):
        values = np.asarray(matrix.values)
        phases = None if basis.period is not None else block_phases(basis)
        pizza[number] = pizza_circularity(
            values,
            members=basis.members,
            phases=phases,
            eigen=principal(snapshot, task, name),
        )
        own = key_spectrum(snapshot, task, name)
        blocks = own.blocks() if own is not None else np.empty(0, dtype=np.int64)
        if len(blocks):
            angles = None if phases is None else phases[blocks]
            fit = circle_fit(values, blocks, members=basis.members, phases=angles)
            columns = [place[basis.labels[block]] for block in blocks]
            fits[number, columns] = np.stack([getattr(fit, name) for name in _MEASURES], axis=1)
    return dataset(
        {
            "circle": describe(
                ("matrix", "block", "measure"),
                fits,
                "circle of the tokens at a key character",
                "1; phase_error in rad",
                "of the ellipse that the rows' component at the character (frequency) traces. "
                "axis_ratio: "
                "minor over major axis; in_plane_share: share of the rows' variance in its plane "
                "that it explains; phase_error: RMS angle between a row and its place on it, the "
                "ellipse first stretched to a circle; "
                "circularity: axis_ratio × in_plane_share. Missing where the block is not key, or "
                "its character real",
                "arXiv:2603.01968",
            ),
            "pizza_circularity": describe(
                ("matrix",),
                pizza,
                "circularity of the leading components",
                "1",
                "mean over the four leading principal components of the largest share of a "
                "component's power at one frequency (character)",
                "arXiv:2306.17844",
                higher_is_better=True,
            ),
        },
        {"matrix": list(found), "block": labels, "measure": list(_MEASURES)},
    )


ANALYZER = Analyzer(
    "circle",
    circle,
    needs=("matrices",),
    applies=abelian,
    variables=("circle", "pizza_circularity"),
)
