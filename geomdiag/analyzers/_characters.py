"""Bases whose blocks are the characters of a finite abelian group, cyclic or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geomdiag.analyzers._shared import harmonic_matrices

if TYPE_CHECKING:
    from geomdiag.models.snapshot import Matrix, Snapshot
    from geomdiag.tasks.contract import HarmonicBasis, Task

__all__ = ["abelian", "block_phases", "character_matrices", "of_characters"]


def of_characters(basis: HarmonicBasis | None) -> bool:
    """Return whether the blocks of a basis are characters, and not the trivial one alone."""
    if basis is None or len(basis.labels) < 2:
        return False
    return basis.period is not None or basis.periods is not None


def abelian(task: Task) -> str:
    """Return why circles have no meaning for a task, or an empty string."""
    if of_characters(task.basis):
        return ""
    return f"the tokens of {task.name} form no abelian group of two elements or more"


def character_matrices(snapshot: Snapshot, task: Task) -> dict[str, tuple[Matrix, HarmonicBasis]]:
    """Return the matrices whose rows carry characters, with their basis."""
    found = harmonic_matrices(snapshot, task)
    return {name: (matrix, b) for name, (matrix, b) in found.items() if of_characters(b)}


def block_phases(basis: HarmonicBasis) -> NDArray[np.float64]:
    """Return the angle of each block's character at the members, (blocks, m), in radians.

    A block holds the cosine and the sine of its character, in that order, or the character
    alone where it is real.
    """
    angles = np.empty((len(basis.labels), len(basis.members)))
    for block in range(len(angles)):
        functions = basis.vectors[:, basis.block == block]
        if functions.shape[1] == 2:
            angles[block] = np.arctan2(functions[:, 1], functions[:, 0])
        else:
            angles[block] = np.where(functions[:, 0] < 0, np.pi, 0.0)
    return angles
