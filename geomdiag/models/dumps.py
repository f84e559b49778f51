"""Dumps: a model's computed parts instead of its weights, from any framework.

One file a step with any of ``logits`` (n, classes) in the order of the task's inputs,
``embedding`` and ``embedding_right`` (tokens, d), ``unembedding`` (classes, d),
``neuron_input`` and ``neuron_input_right`` (tokens, neurons), ``neuron_logit`` (classes,
neurons), ``train_mask`` (n,).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from geomdiag.errors import ArchitectureError
from geomdiag.models.snapshot import Matrix
from geomdiag.tasks.contract import Task
from geomdiag.tasks.families import task as task_of
from geomdiag.tasks.sizes import fitting_tasks

__all__ = ["DUMP_MATRICES", "dump_sizes", "fitting_dump", "read_dump"]

#: Matrices a dump may hold: what the rows and columns stand for.
DUMP_MATRICES: Mapping[str, tuple[Literal["tokens", "classes"], Literal["features", "neurons"]]] = {
    "embedding": ("tokens", "features"),
    "embedding_right": ("tokens", "features"),
    "unembedding": ("classes", "features"),
    "neuron_input": ("tokens", "neurons"),
    "neuron_input_right": ("tokens", "neurons"),
    "neuron_logit": ("classes", "neurons"),
}
#: Rows or classes beside the task's own that are cut off ("=", an operator).
EXTRA = 2


def dump_sizes(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Return the number of tokens that a dump's shapes tell, or None.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Shape by array name.
    """
    logits = shapes.get("logits", ())
    if len(logits) == 3:
        return logits[0]
    if len(logits) == 2 and math.isqrt(logits[0]) ** 2 == logits[0]:
        return math.isqrt(logits[0])  # all pairs
    table = shapes.get("embedding", ())
    return table[0] if len(table) == 2 else None


def fitting_dump(shapes: Mapping[str, tuple[int, ...]], family: str) -> tuple[str, ...]:
    """Return the task specifications that a dump's shapes fit, for messages.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Shape by array name.
    family : str
        Its own specifications go first.
    """
    logits, table = shapes.get("logits", ()), shapes.get("embedding", ())
    if len(logits) != 2 or len(table) != 2:
        return ()
    known = fitting_tasks(table[0], logits[1], family=family)
    return tuple(
        spec
        for spec in known
        if (len((made := task_of(spec)).inputs), made.classes) == logits
        and made.tokens <= table[0] <= made.vocabulary
    )


def read_dump(
    arrays: Mapping[str, NDArray[Any]], task: Task
) -> tuple[dict[str, Matrix], NDArray[Any] | None, NDArray[np.bool_] | None]:
    """Check a dump's arrays against the task.

    Parameters
    ----------
    arrays : mapping of str to array
        By the names above; others are left alone.
    task : Task
        What was to be learnt.

    Returns
    -------
    matrices : dict of str to Matrix
    logits : (n, classes) array or None
    train : (n,) bool array or None

    Raises
    ------
    ArchitectureError
        If a shape does not fit the task, a value is not finite, or nothing is there.
    """
    matrices = {}
    for name, (rows, columns) in DUMP_MATRICES.items():
        if name not in arrays:
            continue
        values = _finite(name, arrays[name])
        wanted = task.tokens if rows == "tokens" else task.classes
        # beside the tokens there may be the task's other symbols, too
        most = (task.vocabulary if rows == "tokens" else task.classes) + EXTRA
        if values.ndim != 2 or not wanted <= values.shape[0] <= most:
            raise ArchitectureError(
                f"the dump's {name!r} should have one row for each of the {wanted} {rows} of "
                f"{task.name} and has shape {values.shape}{_hint(arrays, task)}"
            )
        matrices[name] = Matrix(values[:wanted], rows=rows, columns=columns)
    logits = None
    count = len(task.inputs)
    if "logits" in arrays:
        logits = _finite("logits", arrays["logits"])
        if logits.ndim > 2 and math.prod(logits.shape[:-1]) == count:
            logits = logits.reshape(count, logits.shape[-1])
        if (
            logits.ndim != 2
            or len(logits) != count
            or not 0 <= logits.shape[1] - task.classes <= EXTRA
        ):
            raise ArchitectureError(
                f"the dump's 'logits' should have shape ({count}, {task.classes}), a row for each "
                f"input of {task.name} in lexicographic order, and have shape "
                f"{arrays['logits'].shape}{_hint(arrays, task)}"
            )
        logits = logits[:, : task.classes]
    train = None
    if "train_mask" in arrays:
        train = np.asarray(arrays["train_mask"]).ravel().astype(bool)
        if len(train) != count:
            raise ArchitectureError(
                f"the dump's 'train_mask' should have {count} values, one for each input of "
                f"{task.name}, and has {len(train)}"
            )
    if not matrices and logits is None:
        known = ", ".join(["logits", *DUMP_MATRICES])
        raise ArchitectureError(
            f"the dump holds {', '.join(map(repr, arrays)) or 'nothing'}; expected at least one "
            f"of {known}"
        )
    return matrices, logits, train


def _hint(arrays: Mapping[str, NDArray[Any]], task: Task) -> str:
    tokens = dump_sizes({name: np.shape(value) for name, value in arrays.items()})
    size = task.size_parameter
    if tokens is None or tokens == task.tokens or not size:
        return ""
    return f". It would fit {size} = {tokens}: check the task, or leave {size} out of it."


def _finite(name: str, array: NDArray[Any]) -> NDArray[Any]:
    values = np.asarray(array)
    if values.dtype.kind not in "fiu":
        raise ArchitectureError(f"the dump's {name!r} holds {values.dtype}, not real numbers")
    if values.dtype.kind != "f" or values.dtype.itemsize < 4:
        values = values.astype(np.float32)
    if not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise ArchitectureError(
            f"the dump's {name!r} holds {count} values that are NaN or infinite (of {values.size})"
        )
    return values
