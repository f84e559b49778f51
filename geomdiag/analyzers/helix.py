"""How well a helix of the key characters predicts the rows of a matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geomdiag.analyzers._characters import abelian, character_matrices
from geomdiag.analyzers._shared import PERMUTATIONS, SEED, key_spectrum, relabelled
from geomdiag.analyzers.contract import Analyzer, dataset, describe
from geomdiag.metrics.character_helix import character_helix_fit, generates
from geomdiag.metrics.helix import HelixFit, helix_fit

if TYPE_CHECKING:
    from geomdiag.models.snapshot import Snapshot
    from geomdiag.tasks.contract import HarmonicBasis, Task

__all__ = ["ANALYZER", "helix"]

_MEASURES = ("r2", "r2_loo", "p_value", "frequencies", "generates")


def helix(snapshot: Snapshot, task: Task) -> xr.Dataset:
    """Return ``helix`` over (matrix, measure).

    A matrix without key blocks has no helix to speak of: 0 frequencies, R² 0, p-value 1.
    """
    found = character_matrices(snapshot, task)
    rows = []
    for name, (_, basis) in found.items():
        own = key_spectrum(snapshot, task, name)
        blocks = own.blocks() if own is not None else np.empty(0, dtype=np.int64)
        fit = _fit(snapshot, task, name, basis, blocks)
        rows.append([*map(float, fit), float(_generate(basis, blocks))])
    return dataset(
        {
            "helix": describe(
                ("matrix", "measure"),
                np.array(rows).reshape(len(found), len(_MEASURES)),
                "fit of a helix of the key characters",
                "1",
                "least squares of the rows on cos and sin of the matrix's key characters (in a "
                "cyclic group, frequencies): those of key_block. r2: share of "
                "the variance explained; r2_loo: the same with each row predicted from the others; "
                "p_value: chance of as good a fit under relabelled tokens, each with its own best "
                "characters; frequencies: their number; generates: 1 where they generate the dual "
                "group, so that the helix gives no two tokens the same place (in Z_n: the greatest "
                "common divisor of frequencies and n is 1), else 0",
                "arXiv:2603.01968, Proposition 7.1; arXiv:2502.00873",
            )
        },
        {"matrix": list(found), "measure": list(_MEASURES)},
    )


def _fit(
    snapshot: Snapshot, task: Task, name: str, basis: HarmonicBasis, blocks: NDArray[np.int64]
) -> HelixFit:
    values = np.asarray(snapshot.matrices[name].values)
    if basis.period is not None:
        return helix_fit(
            values,
            blocks,
            members=basis.members,
            relabellings=relabelled(snapshot, task, name) if len(blocks) else None,
            permutations=0,
        )
    return character_helix_fit(
        values,
        blocks,
        members=basis.members,
        vectors=basis.vectors,
        block=basis.block,
        permutations=PERMUTATIONS,
        seed=SEED,
    )


def _generate(basis: HarmonicBasis, blocks: NDArray[np.int64]) -> bool:
    """Return whether the characters of some blocks generate the dual group."""
    if basis.coordinates is None or basis.periods is None:  # cyclic, and block k is ±k
        return generates(blocks[:, None], (len(basis.members),))
    return generates(basis.coordinates[blocks], basis.periods)


ANALYZER = Analyzer(
    "helix", helix, needs=("matrices",), applies=abelian, variables=("helix",), version=2
)
