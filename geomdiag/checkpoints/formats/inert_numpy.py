"""NumPy's pickles of arrays, numbers and types, rebuilt without letting a pickle say their flags.

NumPy believes what a pickle says of a type: one with forged flags makes it take a file's bytes for
pointers. So types are remade from their code alone, and an array's bytes must be as many as its
shape says before anything is allocated.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["NumPyType", "new_array", "scalar", "set_array"]

#: A type's code, such as ``f8``, and no description of records.
_CODE = re.compile(r"[bhilqefdgFDGBHILQO?]|[biufcSUVOMm]\d{1,6}")


class NumPyType:
    """Stands for a pickled ``numpy.dtype``.

    Attributes
    ----------
    dtype : numpy.dtype
        The type that its code and byte order say.

    Raises
    ------
    ValueError
        If the code is not that of a plain type.
    """

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not _CODE.fullmatch(code):
            raise ValueError(f"a NumPy type {str(code)[:40]!r}, which is no number's or text's")
        self.dtype = np.dtype(code)

    def set_state(self, state: Any) -> None:
        """Take the byte order of a pickled state; raises ValueError for a type of records."""
        _version, order, *parts = tuple(state)
        if any(part is not None for part in parts[:3]):
            raise ValueError("a NumPy type of records")
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


def new_array(*_: Any) -> NDArray[Any]:
    """Return the empty array with which NumPy's pickles begin, whatever size is asked for."""
    return np.empty(0, dtype=np.int8)


def set_array(array: NDArray[Any], state: Any) -> None:
    """Give an array its pickled shape, type and values.

    Raises
    ------
    ValueError
        If the values are not as many as the shape says.
    """
    _version, shape, kind, fortran, values = state
    if not isinstance(kind, NumPyType) or not isinstance(shape, tuple):
        raise ValueError("a NumPy array without a shape or a type")
    if any(type(extent) is not int or extent < 0 for extent in shape):
        raise ValueError("a NumPy array of no possible shape")
    objects = kind.dtype.kind == "O"
    if not isinstance(values, list if objects else bytes):
        raise ValueError(f"a NumPy array of {kind.dtype} from a {type(values).__name__}")
    needed = math.prod(shape) * (1 if objects else kind.dtype.itemsize)
    if len(values) != needed:
        raise ValueError(
            f"a NumPy array that needs {needed} bytes or objects and has {len(values)}"
        )
    state = (1, shape, kind.dtype, bool(fortran), values)
    array.__setstate__(state)


def scalar(kind: Any, value: Any = b"") -> Any:
    """Return the number of a type that some bytes are.

    Raises
    ------
    ValueError
        If they are not as many as the type has.
    """
    if not isinstance(kind, NumPyType):
        raise ValueError("a NumPy number without a type")
    if kind.dtype.kind == "O":
        return value
    if not isinstance(value, bytes) or len(value) != kind.dtype.itemsize or not value:
        raise ValueError(f"a NumPy number of {kind.dtype} from {type(value).__name__}")
    return np.frombuffer(value, kind.dtype)[0]
