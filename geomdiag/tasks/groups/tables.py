"""A group from a Cayley table that somebody wrote down: read, and checked to be one."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from geomdiag.errors import TaskError
from geomdiag.tasks.contract import IntArray
from geomdiag.tasks.groups.finite import FiniteGroup, check_order, cyclic_coordinates

__all__ = ["TABLE_SUFFIXES", "group_from_table", "read_table"]

#: Endings of the files a Cayley table is read from.
TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".npy", ".npz")

_DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": None}


def read_table(path: str | Path) -> FiniteGroup:
    """Read a group from a file that holds its Cayley table.

    Parameters
    ----------
    path : str or path
        ``.csv`` (commas), ``.tsv`` (tabs) or ``.txt`` (blanks): one row of whole numbers a
        line, ``#`` starts a comment; ``.npy``; ``.npz`` with one array, or one named ``table``.
        Entry (x, y) is the number of the product x·y; elements are numbered from 0.

    Returns
    -------
    FiniteGroup
        Named by `path`.

    Raises
    ------
    TaskError
        If the file cannot be read, or does not hold the table of a group.
    """
    file = Path(path)
    suffix = file.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise TaskError(
            f"{path}: a Cayley table is read from {', '.join(TABLE_SUFFIXES)}, found "
            f"{suffix or 'no ending'}."
        )
    if not file.is_file():
        raise TaskError(
            f"{path}: the file does not exist; looked in {str(file.absolute().parent)!r}. Check "
            "the path, or give the name of a group such as 'S5'."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an empty file is only a warning to NumPy
            if suffix in _DELIMITERS:
                values = np.loadtxt(file, delimiter=_DELIMITERS[suffix], dtype=np.int64, ndmin=2)
            else:
                values = _stored(file)
    except (OSError, ValueError, EOFError, UserWarning, zipfile.BadZipFile) as error:
        raise TaskError(
            f"{path}: cannot be read as a Cayley table ({error}). Expected is a square table of "
            "whole numbers, entry (x, y) the number of x·y, elements numbered from 0, without "
            "headings and row names."
        ) from None
    return group_from_table(values, name=str(path))


def _stored(file: Path) -> Any:
    """Return the array of an .npy or .npz file."""
    found = np.load(file, allow_pickle=False)
    if isinstance(found, np.ndarray):
        return found
    with found:
        names = found.files
        if "table" not in names and len(names) != 1:
            raise ValueError(f"it holds {', '.join(names) or 'nothing'}, and no array 'table'")
        return found["table" if "table" in names else names[0]]


def group_from_table(table: Any, *, name: str = "table") -> FiniteGroup:
    """Return the group of a Cayley table, after checking that it is one.

    Every axiom is checked exactly; associativity by Light's test, which needs only the
    elements of a generating set in the middle of the triple.

    Parameters
    ----------
    table : (m, m) int array
        Entry (x, y) is the number of the product x·y; elements are numbered from 0. The
        identity may be any of them.
    name : str
        What messages call it.

    Returns
    -------
    FiniteGroup
        Its generators are those of its cyclic factors if it is abelian, else the first elements
        that generate it: going up the numbers, each that the ones before do not reach.

    Raises
    ------
    TaskError
        If the table is no group's; the message says which axiom fails, and where.
    """
    values = _square(table, name)
    identity = _identity(values, name)
    _check_latin(values, name)
    generators = _generators(values, identity)
    for a in generators:
        wrong = np.argwhere(values[values[:, a]] != values[:, values[a]])
        if len(wrong):
            x, y = (int(i) for i in wrong[0])
            raise TaskError(
                f"{name}: the operation is not associative: ({x}·{a})·{y} = "
                f"{values[values[x, a], y]}, but {x}·({a}·{y}) = {values[x, values[a, y]]}. "
                "It is no group's table."
            )
    abelian = bool(np.array_equal(values, values.T))
    periods: tuple[int, ...] = ()
    coordinates: IntArray | None = None
    if abelian:
        periods, coordinates = cyclic_coordinates(values)
        units = (coordinates.sum(axis=1) == 1).nonzero()[0]
        generators = tuple(int(x) for x in units) or (identity,)
    return FiniteGroup(
        name=name,
        table=values,
        elements=tuple(str(x) for x in range(len(values))),
        generators=generators,
        family="abelian" if abelian else "",
        periods=periods,
        coordinates=coordinates,
    )


def _square(table: Any, name: str) -> IntArray:
    """Return the table as a square array of element numbers."""
    found = np.asarray(table)
    if found.ndim != 2 or found.shape[0] != found.shape[1] or found.shape[0] == 0:
        raise TaskError(
            f"{name}: a Cayley table is square, one row and one column an element; found an "
            f"array of shape {found.shape}. Leave out headings and row names."
        )
    m = len(found)
    check_order(name, m)
    whole = found.dtype.kind in "iu" or (
        found.dtype.kind == "f" and bool((np.isfinite(found) & (found == np.round(found))).all())
    )
    if not whole:
        raise TaskError(
            f"{name}: the entries of a Cayley table are whole numbers 0 ... {m - 1}, found "
            f"values of type {found.dtype}. Number the elements from 0."
        )
    values = found.astype(np.int64)
    wrong = np.argwhere((values < 0) | (values >= m))
    if len(wrong):
        x, y = (int(i) for i in wrong[0])
        hint = (
            "The elements are numbered from 1; subtract 1 from every entry."
            if values.min() == 1 and values.max() == m
            else "Number the elements from 0."
        )
        raise TaskError(
            f"{name}: the product {x}·{y} is {values[x, y]}, outside 0 ... {m - 1}. {hint}"
        )
    return values


def _identity(values: IntArray, name: str) -> int:
    """Return the two-sided identity."""
    everything = np.arange(len(values))
    left = (values == everything[None, :]).all(axis=1)
    right = (values == everything[:, None]).all(axis=0)
    both = np.flatnonzero(left & right)
    if not len(both):
        raise TaskError(
            f"{name}: no element e has e·x = x·e = x for all x, so there is no identity: no row "
            f"and column both read 0 ... {len(values) - 1}. It is no group's table."
        )
    return int(both[0])


def _check_latin(values: IntArray, name: str) -> None:
    """Raise unless every row and column holds every element: then all have inverses."""
    everything = np.arange(len(values))
    for axis, what in ((1, "row"), (0, "column")):
        repeats = (np.sort(values, axis=axis) != (everything if axis else everything[:, None])).any(
            axis=axis
        )
        if repeats.any():
            at = int(np.argmax(repeats))
            line = values[at] if axis else values[:, at]
            twice = int(np.argmax(np.bincount(line, minlength=len(values)) > 1))
            raise TaskError(
                f"{name}: {what} {at} holds {twice} twice, so element {at} has no inverse: in a "
                "group every row and column holds every element once."
            )


def _generators(values: IntArray, identity: int) -> tuple[int, ...]:
    """Return elements whose products from left to right reach every element."""
    reached = np.zeros(len(values), dtype=bool)
    reached[identity] = True
    generators: list[int] = []
    for x in range(len(values)):
        if reached[x]:
            continue
        generators.append(x)
        front = np.flatnonzero(reached)
        while len(front):
            products = np.unique(values[front[:, None], generators])
            front = products[~reached[products]]
            reached[front] = True
    return tuple(generators) or (identity,)
