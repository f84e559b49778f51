"""One namespace for NumPy arrays and torch tensors, and the few steps every metric shares."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_torch_array
from array_api_compat import numpy as numpy_namespace
from numpy.typing import NDArray

__all__ = ["Array", "index_like", "is_torch", "namespace", "to_float64", "to_numpy"]

#: A NumPy array or a torch tensor.
Array = Any


def namespace(*arrays: Array) -> Any:
    """Return the array-API namespace that all of `arrays` belong to (None is skipped)."""
    if all(type(array) is np.ndarray for array in arrays):  # the usual case, for a tenth
        return numpy_namespace
    return array_namespace(*(array for array in arrays if array is not None))


def is_torch(array: Array) -> bool:
    """Return whether `array` is a torch tensor, without importing torch."""
    return type(array) is not np.ndarray and bool(is_torch_array(array))


def to_float64(array: Array) -> Array:
    """Return `array` in double precision, on its own device and with its gradient."""
    xp = namespace(array)
    return xp.astype(array, xp.float64, copy=False)


def to_numpy(array: Array) -> NDArray[Any]:
    """Return `array` as a NumPy array on the CPU, without its gradient."""
    if is_torch(array):
        array = array.detach().cpu().numpy()
    return np.asarray(array)


def index_like(index: Array, array: Array) -> Array:
    """Return an integer or bool `index` in the namespace and on the device of `array`."""
    xp = namespace(array)
    if is_torch(index) == is_torch(array) and not isinstance(index, list | tuple):
        return index if not is_torch(index) else index.to(array.device)
    return xp.asarray(to_numpy(index), device=device(array))
