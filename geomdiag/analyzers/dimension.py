"""Rank, dimension and norms of every matrix of the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geomdiag.analyzers._shared import identity, principal, stack
from geomdiag.analyzers.contract import Analyzer, dataset, describe
from geomdiag.metrics.rank import dimensions, norms

if TYPE_CHECKING:
    from geomdiag.models.snapshot import Snapshot
    from geomdiag.tasks.contract import Task

__all__ = ["ANALYZER", "dimension"]

_MEASURES = (
    "effective_dimension",
    "entropy_rank",
    "entropy_rank_squared",
    "participation_ratio",
    "stable_rank",
    "intrinsic_dimension",
)
_KINDS = ("nuclear", "frobenius", "spectral")


def dimension(snapshot: Snapshot, task: Task) -> xr.Dataset:
    """Return ``dimension`` over (matrix, measure) and ``norm`` over (matrix, kind)."""
    # One array may go by several names (a one-hot network's embedding is its neurons' input).
    matrices = {name: np.asarray(matrix.values) for name, matrix in snapshot.matrices.items()}
    own = {identity(values): name for name, values in matrices.items()}
    dimension_of = {
        key: dimensions(matrices[name], squares=_squares(snapshot, task, name))
        for key, name in own.items()
    }
    norms_of = {key: norms(matrices[name]) for key, name in own.items()}
    keys = [identity(values) for values in matrices.values()]
    return dataset(
        {
            "dimension": describe(
                ("matrix", "measure"),
                stack((dimension_of[key] for key in keys), _MEASURES),
                "rank and dimension",
                "1",
                "of the rows (tokens or classes), centred, with singular values σ, λ = σ². "
                "effective_dimension: principal components with more than 1 % of the variance; "
                "entropy_rank: exp of the entropy of σ/Σσ; entropy_rank_squared: the same of λ/Σλ; "
                "participation_ratio: (Σλ)²/Σλ²; stable_rank: Σλ/max λ; intrinsic_dimension: TwoNN",
                "arXiv:2603.01968; Roy & Vetterli 2007 (EUSIPCO); doi:10.1038/s41598-017-11873-y",
            ),
            "norm": describe(
                ("matrix", "kind"),
                stack((norms_of[key] for key in keys), _KINDS),
                "matrix norm",
                "1",
                "of the matrix as it stands: sum, root of the sum of squares, and largest of its "
                "singular values",
            ),
        },
        {"matrix": list(matrices), "measure": list(_MEASURES), "kind": list(_KINDS)},
    )


def _squares(snapshot: Snapshot, task: Task, name: str) -> NDArray[np.float64] | None:
    """Return the squared singular values that the test of the matrix' blocks needs, too."""
    values = np.asarray(snapshot.matrices[name].values)
    found = principal(snapshot, task, name) if values.dtype == np.float32 else None
    if found is None or len(found[0]) != len(values):
        return None
    return found[0][: min(values.shape)]


ANALYZER = Analyzer("dimension", dimension, needs=("matrices",), variables=("dimension", "norm"))
