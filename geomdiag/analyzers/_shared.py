"""What several diagnostics need of the same snapshot or task, computed once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from geomdiag.metrics._relabel import Relabellings
    from geomdiag.models.snapshot import Matrix, Snapshot
    from geomdiag.tasks.contract import HarmonicBasis, LogitGroup, Task

__all__ = [
    "CHARACTER",
    "KeySpectrum",
    "answered_right",
    "basis_arguments",
    "basis_of",
    "block_labels",
    "harmonic_matrices",
    "identity",
    "key_spectrum",
    "once",
    "principal",
    "relabelled",
    "shares_group",
    "stack",
    "token_matrices",
]

#: What the logits of a group task are held against.
CHARACTER = (
    "χ(xyz⁻¹), χ the block's real character (cos(2πk(r − z)/m) in a cyclic group), over all inputs "
    "(x, y) and classes z of the group"
)
#: Relabellings of the tokens that blocks and fits are held against, and their seed.
PERMUTATIONS, SEED = 999, 0

T = TypeVar("T")


def once(snapshot: Snapshot, key: object, make: Callable[[], T]) -> T:
    """Return what `make` gave the first time it was asked for under `key`."""
    if key not in snapshot.cache:
        snapshot.cache[key] = make()
    found: T = snapshot.cache[key]
    return found


def answered_right(snapshot: Snapshot, task: Task) -> NDArray[np.bool_]:
    """Return which inputs are answered right."""
    from geomdiag.metrics.fit import correct

    def make() -> NDArray[np.bool_]:
        # An answer with more than half of the probability is the largest beyond doubt.
        log_p = snapshot.log_probabilities
        right: NDArray[np.bool_] = log_p[np.arange(len(log_p)), task.answers] > -0.69
        rest = np.flatnonzero(~right)
        if len(rest):
            right[rest] = correct(snapshot.logits[rest], task.answers[rest])
        return right

    return once(snapshot, "answered right", make)


def shares_group(task: Task) -> str:
    """Return why the logits of a task have no group structure, or an empty string."""
    if task.logit_group is not None:
        return ""
    return f"the inputs and classes of {task.name} share no group"


def block_labels(group: LogitGroup) -> tuple[str, ...]:
    """Return the labels of a group's blocks, the trivial one first."""
    return group.labels or tuple(f"k={k}" for k in range(group.order // 2 + 1))


def basis_of(matrix: Matrix, task: Task) -> HarmonicBasis | None:
    """Return the harmonic basis of a matrix's rows, None where they carry none."""
    return task.basis if matrix.rows == "tokens" else task.class_basis


def harmonic_matrices(snapshot: Snapshot, task: Task) -> dict[str, tuple[Matrix, HarmonicBasis]]:
    """Return the matrices whose rows carry a harmonic basis, with that basis."""
    found: dict[str, tuple[Matrix, HarmonicBasis]] = {}
    for name, matrix in snapshot.matrices.items():
        basis = basis_of(matrix, task)
        if basis is not None and len(basis.labels) > 1:
            found[name] = (matrix, basis)
    return found


@dataclass(frozen=True, eq=False)
class KeySpectrum:
    """Power of a matrix in the non-trivial blocks of its basis; entry 0 is block 1.

    Attributes
    ----------
    fractions : (blocks - 1,) float array
        Fractions of the non-trivial power.
    key : (blocks - 1,) bool array
        Which blocks stand out of what relabelled tokens would show.
    p_values : (blocks - 1,) float array
        Family-wise.
    """

    fractions: NDArray[np.float64]
    key: NDArray[np.bool_]
    p_values: NDArray[np.float64]

    def blocks(self) -> NDArray[np.int64]:
        """Return the key blocks, strongest first."""
        order = np.argsort(-self.fractions, kind="stable")
        return order[self.key[order]] + 1


def basis_arguments(basis: HarmonicBasis) -> dict[str, Any]:
    """Return a basis as the arguments that the spectral metrics take."""
    if basis.period is not None:
        return {"members": basis.members, "period": basis.period}
    return {"members": basis.members, "block": basis.block, "vectors": basis.vectors}


def identity(values: NDArray[Any]) -> tuple[Any, ...]:
    """Return what two names of one and the same array have in common."""
    return values.__array_interface__["data"], values.shape, values.strides


def relabelled(snapshot: Snapshot, task: Task, name: str) -> Relabellings | None:
    """Return the relabellings of a matrix's rows; None if their basis is not cyclic."""
    from geomdiag.metrics._relabel import Relabellings

    matrix = snapshot.matrices[name]
    basis = basis_of(matrix, task)
    if basis is None or basis.period is None:
        return None

    def make() -> Relabellings:
        rows = np.asarray(matrix.values, dtype=np.float64)[basis.members]
        rows = rows - rows.mean(axis=0)
        return Relabellings(rows @ rows.T, PERMUTATIONS, SEED)

    return once(snapshot, ("relabelled", matrix.rows, identity(matrix.values)), make)


def principal(
    snapshot: Snapshot, task: Task, name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return the eigenvalues, largest first, and eigenvectors that the relabellings need.

    Of the Gram matrix of the centred members' rows; None where there are no relabellings or the
    matrix is not finite.
    """
    found = relabelled(snapshot, task, name)
    return None if found is None or not np.isfinite(found.gram).all() else found.components


def key_spectrum(snapshot: Snapshot, task: Task, name: str) -> KeySpectrum | None:
    """Return the spectrum of a matrix and its key blocks; None without a basis."""
    matrix = snapshot.matrices[name]
    basis = basis_of(matrix, task)
    if basis is None or len(basis.labels) < 2:
        return None
    key = ("key spectrum", matrix.rows, identity(matrix.values))
    return once(snapshot, key, lambda: _key_spectrum(snapshot, task, name, basis))


def _key_spectrum(snapshot: Snapshot, task: Task, name: str, basis: HarmonicBasis) -> KeySpectrum:
    from geomdiag.metrics.spectrum import block_power, key_blocks, power_fractions

    values = np.asarray(snapshot.matrices[name].values)
    arguments = basis_arguments(basis)
    fractions = np.asarray(power_fractions(block_power(values, **arguments)))
    found = key_blocks(
        values,
        **arguments,
        permutations=PERMUTATIONS,
        seed=SEED,
        relabellings=relabelled(snapshot, task, name),
    )
    return KeySpectrum(fractions, found.key, found.p_values)


def token_matrices(snapshot: Snapshot) -> dict[str, Matrix]:
    """Return the representations of the tokens: matrices with a row a token, neurons' apart."""
    return {
        name: matrix
        for name, matrix in snapshot.matrices.items()
        if matrix.rows == "tokens" and (matrix.columns == "features" or name.startswith("emb"))
    }


def stack(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> NDArray[np.float64]:
    """Return the named numbers of each mapping, (rows, names)."""
    return np.array([[row[name] for name in names] for row in rows], dtype=np.float64)
