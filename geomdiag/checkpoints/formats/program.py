"""Checkpoints that carry their own computation: what is needed to run one on inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from numpy.typing import NDArray

from geomdiag.checkpoints.places.paths import AnyPath
from geomdiag.errors import UnsafeCheckpointError

__all__ = ["Program", "refuse_to_run"]


@dataclass(frozen=True, eq=False)
class Program:
    """A model as its file defines it.

    Attributes
    ----------
    run : callable
        Maps token numbers, an (n, width) int64 array, to logits: (n, classes), or
        (n, positions, classes) of which the last position is the answer.
    batch : int or None
        The only number of rows it takes; None if any.
    width : int or None
        The only number of tokens a row it takes; None if any.
    """

    run: Callable[[NDArray[Any]], NDArray[Any]]
    batch: int | None = None
    width: int | None = None


def refuse_to_run(path: AnyPath, what: str) -> NoReturn:
    """Raise the error for a program that the user has not allowed to run.

    Raises
    ------
    UnsafeCheckpointError
        Always.
    """
    raise UnsafeCheckpointError(
        f"{path}: its weights can be read, but they are of no architecture that geomdiag knows, "
        f"and {what}. If you trust its origin, allow it with --allow-pickle (allow_pickle=True); "
        "or give the model with --model, or export it as ONNX."
    )
