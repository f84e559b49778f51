"""Networks that run as their own file defines them: TorchScript, torch.export, ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomdiag.checkpoints.series import Checkpoint
from geomdiag.errors import ArchitectureError
from geomdiag.models.snapshot import Matrix, Network
from geomdiag.tasks.contract import Task

__all__ = ["ProgramNetwork"]

#: Rows given to a program at once where it takes any number.
_ROWS = 4096


class ProgramNetwork(Network):
    """A checkpoint's own program, which shows nothing but its answers.

    Parameters
    ----------
    checkpoint : Checkpoint
        With a ``program``.
    task : Task
        What was to be learnt.

    Raises
    ------
    CheckpointError
        If the program cannot be loaded, or was not allowed to run.
    ArchitectureError
        If it takes another number of tokens than the task's inputs have.
    """

    architecture = "own program"
    roles: Mapping[str, str] = {}

    def __init__(self, checkpoint: Checkpoint, task: Task) -> None:
        if checkpoint.program is None:
            raise ArchitectureError(f"{checkpoint.path.name} carries no program")
        self.label = checkpoint.path.name
        self.classes, self.tokens = task.classes, task.tokens
        self.notices: tuple[str, ...] = ()
        self._program = checkpoint.program()
        arity, width = task.inputs.shape[1], self._program.width
        self._equals = width == arity + 1
        if self._equals:
            self.notices = (
                f"the program takes {width} tokens: '=' (token {self.tokens}) is put after the "
                f"{arity} operands",
            )
        elif width not in (None, arity):
            raise ArchitectureError(
                f"the program in {self.label} takes {width} tokens a row; the inputs of "
                f"{task.name} have {arity}. Give the model with --model package.module:factory."
            )

    def matrices(self) -> dict[str, Matrix]:
        """Return nothing: which tensors play which part is unknown."""
        return {}

    def logits(self, inputs: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return what the program answers, cut to the task's classes; see `Network.logits`.

        Raises
        ------
        ArchitectureError
            If it fails, or its output has the wrong shape or is not finite.
        """
        rows = np.array(inputs, dtype=np.int64)
        if self._equals:
            rows = np.pad(rows, ((0, 0), (0, 1)), constant_values=self.tokens)
        size = self._program.batch or _ROWS
        parts = [self._run(rows[start : start + size]) for start in range(0, len(rows), size)]
        values = np.concatenate(parts)[:, : self.classes]
        if not np.isfinite(values).all():
            raise ArchitectureError(f"the program in {self.label} returned NaN or infinite logits")
        return values

    def _run(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        count, fixed = len(rows), self._program.batch
        if fixed is not None and count < fixed:  # the last rows are filled up and cut off again
            rows = np.concatenate([rows, np.repeat(rows[-1:], fixed - count, axis=0)])
        try:
            output = np.asarray(self._program.run(rows), dtype=np.float32)
        except Exception as error:  # whatever the program's runtime raises
            text = (str(error).splitlines() or [""])[0][:200]
            raise ArchitectureError(
                f"the program in {self.label} failed on token numbers of shape {rows.shape}: "
                f"{type(error).__name__}: {text}"
            ) from error
        values: NDArray[Any] = output[:, -1] if output.ndim == 3 else output
        if values.ndim != 2 or len(values) != len(rows) or values.shape[1] < self.classes:
            raise ArchitectureError(
                f"the program in {self.label} returned shape {output.shape}; expected "
                f"({len(rows)}, {self.classes}): logits over the classes, a row for each input"
            )
        return values[:count]
