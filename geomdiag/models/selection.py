"""Matrices taken from a checkpoint by the names of their tensors, and which rows of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geomdiag.checkpoints.series import Checkpoint, TensorMap
from geomdiag.errors import ArchitectureError
from geomdiag.models.dumps import DUMP_MATRICES
from geomdiag.models.snapshot import Matrix
from geomdiag.models.tokens import Tokens

if TYPE_CHECKING:
    from geomdiag.tasks.contract import Task

__all__ = ["Part", "Selection", "entries"]


@dataclass(frozen=True)
class Part:
    """A tensor that plays a part.

    Attributes
    ----------
    tensor : str
        Its name.
    axis : int
        0 if its rows are the tokens (or classes), 1 if its columns are.
    """

    tensor: str
    axis: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Selection:
    """Which tensors, and which tokens of them, are a run's matrices.

    Attributes
    ----------
    parts : mapping of str to Part
        ``embedding``, ``unembedding``, ...; see `DUMP_MATRICES`.
    tokens : Tokens or None
        Which rows stand for the task's elements; None: the first ones.
    only : bool
        Whether these matrices are all there is: no network is run.
    reason : str
        Why it is not.
    notices : tuple of str
        What a person should know.
    """

    parts: Mapping[str, Part]
    tokens: Tokens | None = None
    only: bool = False
    reason: str = ""
    notices: tuple[str, ...] = field(default=())

    @property
    def roles(self) -> dict[str, str]:
        """Part to tensor name."""
        return {part: found.tensor for part, found in self.parts.items()}

    def matrices(self, tensors: TensorMap, task: Task) -> dict[str, Matrix]:
        """Return the matrices of one checkpoint, reading no other rows where that can be helped.

        Raises
        ------
        ArchitectureError
            If a tensor is missing, has another shape than the run's first one suggested, or
            holds no finite real numbers.
        CheckpointError
            If the file cannot be read.
        """
        return {
            part: Matrix(
                _finite(self.parts[part].tensor, values),
                rows=DUMP_MATRICES[part][0],
                columns=DUMP_MATRICES[part][1],
            )
            for part, values in self._read(tensors, task).items()
        }

    def _read(self, tensors: TensorMap, task: Task) -> dict[str, NDArray[Any]]:
        found: dict[str, NDArray[Any]] = {}
        for part, chosen in self.parts.items():
            if chosen.tensor not in tensors:
                raise ArchitectureError(
                    f"the tensor {chosen.tensor!r}, taken for the {part}, is not in this "
                    "checkpoint; leave the checkpoint out or change --map"
                )
            shape = tensors.spec(chosen.tensor).shape
            ids = self.tokens.ids if self.tokens is not None else range(entries(part, task))
            if len(shape) != 2 or max(ids) >= shape[chosen.axis]:
                raise ArchitectureError(
                    f"the tensor {chosen.tensor!r}, taken for the {part}, has shape {shape} in "
                    f"this checkpoint, too small for row {max(ids)} along axis {chosen.axis}"
                )
            if chosen.axis == 0:
                found[part] = tensors.rows(chosen.tensor, list(ids))
            else:
                whole = tensors[chosen.tensor]
                found[part] = np.ascontiguousarray(whole[:, list(ids)].T)
        return found

    def digest(self, checkpoint: Checkpoint, task: Task) -> str:
        """Return the sha256 of the rows used and of all tensors' names, types and shapes.

        In place of the whole file's, which may have many gigabytes of which a few rows are used.

        Raises
        ------
        ArchitectureError, CheckpointError
            If the rows cannot be read.
        """
        digest = hashlib.sha256()
        for name, spec in sorted(checkpoint.tensors.specs().items()):
            digest.update(f"{name}\0{spec.dtype}\0{spec.shape}\0".encode())
        for part, values in sorted(self._read(checkpoint.tensors, task).items()):
            digest.update(f"{part}\0{values.dtype}\0{values.shape}\0".encode())
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    def token(self) -> dict[str, Any]:
        """Return what numbers computed from it depend on, as JSON takes it."""
        return {
            "parts": {part: [one.tensor, one.axis] for part, one in self.parts.items()},
            "tokens": None if self.tokens is None else list(self.tokens.ids),
            "only": self.only,
        }


def entries(part: str, task: Task) -> int:
    """Return how many tokens or classes of a task a part has a row for."""
    return task.tokens if DUMP_MATRICES[part][0] == "tokens" else task.classes


def _finite(name: str, values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype.kind not in "fiu":
        raise ArchitectureError(f"the tensor {name!r} holds {values.dtype}, not real numbers")
    if values.dtype.kind != "f" or values.dtype.itemsize < 4:
        values = values.astype(np.float32)
    broken = int((~np.isfinite(values)).sum())
    if broken:
        raise ArchitectureError(
            f"the tensor {name!r} holds {broken} values that are NaN or infinite in the rows used "
            f"(of {values.size}): the run diverged, or the file is damaged. Leave this checkpoint "
            "out."
        )
    return values
