"""From stored arrays to the torch tensors a network is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from geomdiag.errors import ArchitectureError

__all__ = [
    "activation",
    "activation_",
    "empty_like",
    "multiply",
    "product_grid",
    "read_tensors",
    "restrict",
]


def read_tensors(tensors: Mapping[str, NDArray[Any]], names: Iterable[str]) -> dict[str, Tensor]:
    """Read the named tensors in one floating type, and check that they hold numbers.

    The widest stored type wins and is the type the network runs in: float64 stays float64,
    half precision is widened to float32.

    Parameters
    ----------
    tensors : mapping of str to array
        A checkpoint's tensors.
    names : iterable of str
        Which to read.

    Returns
    -------
    dict of str to Tensor

    Raises
    ------
    ArchitectureError
        If one holds NaN or infinity, or no floating numbers; the message names it.
    """
    arrays = {name: np.asarray(tensors[name]) for name in dict.fromkeys(names)}
    wanted: type[np.floating[Any]] = np.float32
    prefix = getattr(tensors, "prefix", "")  # of names in the file, which messages show
    for name, array in ((prefix + name, array) for name, array in arrays.items()):
        if array.dtype.kind != "f":
            raise ArchitectureError(
                f"tensor {name!r} holds {array.dtype}, but weights are floating-point numbers"
            )
        if not np.isfinite(array).all():
            count = int((~np.isfinite(array)).sum())
            raise ArchitectureError(
                f"tensor {name!r} holds {count} values that are NaN or infinite (of {array.size}): "
                "the run diverged, or the file is damaged. Leave this checkpoint out."
            )
        if array.dtype.itemsize > 4:
            wanted = np.float64
    # a copy: stored arrays may be read-only maps of the file
    return {name: torch.from_numpy(array.astype(wanted)) for name, array in arrays.items()}


def restrict(tensor: Tensor, axis: int, size: int) -> Tensor:
    """Return the first `size` entries along `axis`, contiguous."""
    return tensor.narrow(axis, 0, size).contiguous()


def empty_like(tensor: Tensor, *shape: int) -> Tensor:
    """Return an uninitialised tensor of another shape, in main memory.

    From NumPy, which asks the system for large pages: mapping small ones costs as much as
    filling them.
    """
    return torch.from_numpy(np.empty(shape, dtype=tensor.numpy().dtype))


def multiply(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """Return the matrix product of two tensors in main memory, without gradients.

    Through NumPy, whose BLAS uses the widest instructions of any processor; the one that
    torch brings reaches half its speed on some.

    Parameters
    ----------
    left, right : (n, k) and (k, m) float tensor
        Of one type.
    out : (n, m) float tensor, optional
        Contiguous; written over.

    Returns
    -------
    (n, m) tensor
    """
    if out is None:
        return torch.from_numpy(np.matmul(left.numpy(), right.numpy()))
    np.matmul(left.numpy(), right.numpy(), out=out.numpy())
    return out


_FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
    "tanh": torch.tanh,
    "quadratic": torch.square,
    "identity": lambda x: x,
}
_IN_PLACE: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_,
    "tanh": torch.tanh_,
    "quadratic": torch.square_,
    "identity": lambda x: x,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """Return the activation of that name as a differentiable function."""
    return _FUNCTIONS[name]


def activation_(name: str) -> Callable[[Tensor], Tensor]:
    """Return the activation of that name, writing over its argument."""
    if name in _IN_PLACE:
        return _IN_PLACE[name]
    function = _FUNCTIONS[name]
    return lambda x: x.copy_(function(x))


def product_grid(inputs: NDArray[np.int64]) -> tuple[Tensor, Tensor] | None:
    """Return the left and right operands when the inputs are all their pairs, in order.

    Parameters
    ----------
    inputs : (n, arity) int array

    Returns
    -------
    tuple of (a,) and (b,) int64 tensors, or None
        None when the inputs are not such a grid.
    """
    if inputs.ndim != 2 or inputs.shape[1] != 2 or not len(inputs):
        return None
    first = inputs[:, 0]
    changes = np.flatnonzero(first != first[0])
    width = int(changes[0]) if len(changes) else len(first)
    if len(inputs) % width:
        return None
    left, right = first[::width], inputs[:width, 1]
    grid = inputs.reshape(len(left), width, 2)
    if (grid[:, :, 0] != left[:, None]).any() or (grid[:, :, 1] != right).any():
        return None
    return torch.from_numpy(left.astype(np.int64)), torch.from_numpy(right.astype(np.int64))
