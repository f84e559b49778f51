"""Rows, one a checkpoint, put together into one dataset a run, and taken out of it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

__all__ = ["Row", "Value", "assemble", "rows_of", "values_of"]

#: Labels of each dim of a value; None where the dim has no coordinate.
Labels = tuple[tuple[Any, ...] | None, ...]


@dataclass(frozen=True, eq=False)
class Value:
    """One variable at one step: what a Dataset would hold, without the cost of one."""

    dims: tuple[str, ...]
    values: NDArray[Any]
    labels: Labels
    attrs: Mapping[str, Any]


@dataclass(eq=False, kw_only=True)
class Row:
    """What came of one checkpoint.

    Attributes
    ----------
    step : int
        Its step.
    digest, status, error : str
        See the result's variables of these names.
    values : mapping of str to Value
        The analyzers' variables.
    reasons : mapping of str to str
        Analyzer to the reason why it was not computed (nothing was wrong; it does not apply).
    facts : mapping of str to str
        What was found out about the run on the way (architecture, roles of the tensors).
    """

    step: int
    digest: str = ""
    status: str = "ok"
    error: str = ""
    values: dict[str, Value] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)

    def pack(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return a JSON-able header and the arrays, for a journal."""
        header = {
            "row": [self.step, self.digest, self.status, self.error, self.reasons, self.facts],
            "values": {n: [v.dims, v.labels, dict(v.attrs)] for n, v in self.values.items()},
        }
        return header, {name: value.values for name, value in self.values.items()}

    @classmethod
    def unpack(cls, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Row:
        """Return the row that `pack` was called on."""
        step, digest, status, error, reasons, facts = header["row"]
        values = {
            name: Value(
                tuple(dims),
                arrays[name],
                tuple(None if one is None else tuple(one) for one in labels),
                attrs,
            )
            for name, (dims, labels, attrs) in header["values"].items()
        }
        return cls(
            step=step,
            digest=digest,
            status=status,
            error=error,
            values=values,
            reasons=reasons,
            facts=facts,
        )


def values_of(dataset: xr.Dataset) -> dict[str, Value]:
    """Return the data variables of a dataset with the labels of their dims."""
    labels = {
        name: tuple(dataset.variables[name].values.tolist())
        for name in dataset.dims
        if name in dataset.variables
    }
    return {
        str(name): Value(
            tuple(str(dim) for dim in variable.dims),
            _plain(np.asarray(variable.values)),
            tuple(labels.get(dim) for dim in variable.dims),
            variable.attrs,
        )
        for name in dataset.data_vars
        for variable in (dataset.variables[name],)
    }


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    """Return text as text of fixed width: objects cannot be kept as bytes."""
    if values.dtype.kind not in "OT":
        return values
    return np.array(values.tolist(), dtype=str).reshape(values.shape)


def assemble(rows: Sequence[Row], static: frozenset[str]) -> xr.Dataset:
    """Return the dataset of a run from its rows.

    Labels of a dim are joined over all variables and steps, in the order they were met: a value
    that a step or a variable has no label for is NaN (False for truth values, empty for text).

    Parameters
    ----------
    rows : sequence of Row
        In order of step.
    static : set of str
        Variables that do not depend on the step.

    Returns
    -------
    xr.Dataset
        With the index `step`.
    """
    union = _joined_labels(rows)
    data: dict[str, Any] = {
        "digest": ("step", np.array([row.digest for row in rows], dtype=str), _ABOUT["digest"]),
        "status": ("step", np.array([row.status for row in rows], dtype=str), _ABOUT["status"]),
        "error": ("step", np.array([row.error for row in rows], dtype=str), _ABOUT["error"]),
    }
    for name in dict.fromkeys(name for row in rows for name in row.values):
        first = next(row.values[name] for row in rows if name in row.values)
        shape = tuple(
            size if own is None else len(union[dim])
            for dim, size, own in zip(first.dims, first.values.shape, first.labels, strict=True)
        )
        if name in static:
            whole = _blank(shape, first.values.dtype, keep_integers=True)
            whole[_place(first, union)] = first.values
            data[name] = (first.dims, _as_text(whole), dict(first.attrs))
            continue
        whole = _blank((len(rows), *shape), first.values.dtype)
        places: dict[Labels, Any] = {}
        for number, row in enumerate(rows):
            if (value := row.values.get(name)) is None:
                continue
            if value.labels not in places:
                places[value.labels] = _place(value, union)
            whole[number, ...][places[value.labels]] = value.values
        data[name] = (("step", *first.dims), _as_text(whole), dict(first.attrs))
    coords: dict[str, Any] = {
        dim: (dim, np.array(list(labels))) for dim, labels in union.items() if dim != "step"
    }
    steps = np.array([row.step for row in rows], dtype=np.int64)
    coords["step"] = ("step", steps, {"long_name": "optimiser step", "units": "1"})
    return xr.Dataset(data, coords)


def rows_of(
    dataset: xr.Dataset, wanted: frozenset[str], *, failed: bool = False
) -> dict[tuple[int, str], Row]:
    """Return the finished rows of an earlier result by step and digest.

    Parameters
    ----------
    dataset : xr.Dataset
        A run's dataset.
    wanted : set of str
        Variables that rows consist of; others came of the run as a whole.
    failed : bool
        Whether to return those that failed, too.
    """
    if "step" not in dataset.dims or not {"digest", "status", "error"} <= set(dataset.data_vars):
        return {}
    found = values_of(dataset[[name for name in dataset.data_vars if name in wanted]])
    rows: dict[tuple[int, str], Row] = {}
    steps = dataset["step"].values.tolist()
    columns = [dataset[name].values.tolist() for name in ("digest", "status", "error")]
    for number, (step, digest, status, error) in enumerate(zip(steps, *columns, strict=True)):
        if status == "failed" and not failed:
            continue  # worth another try: the cause may be outside the file
        values = {
            name: Value(value.dims[1:], value.values[number], value.labels[1:], value.attrs)
            if value.dims[:1] == ("step",)
            else value
            for name, value in found.items()
        }
        rows[step, digest] = Row(
            step=step, digest=digest, status=status, error=error, values=values
        )
    return rows


_ABOUT: dict[str, dict[str, str]] = {
    "digest": {
        "long_name": "digest of the checkpoint",
        "units": "1",
        "definition": (
            "sha256 of the checkpoint's bytes, hexadecimal; where an embedding alone is analysed, "
            "of its rows that are used and of all tensors' names, types and shapes"
        ),
    },
    "status": {
        "long_name": "what came of the checkpoint",
        "units": "1",
        "definition": "ok; failed: it could not be read or run, its numbers are missing; "
        "partial: some diagnostics failed, the others are there",
    },
    "error": {
        "long_name": "why the checkpoint is not ok",
        "units": "1",
        "definition": "message of the errors met; empty where status is ok",
    },
}


def _joined_labels(rows: Sequence[Row]) -> dict[str, dict[Any, int]]:
    """Return, for each dim with a coordinate, the position of every label met."""
    union: dict[str, dict[Any, int]] = {}
    seen: set[tuple[tuple[str, ...], Labels]] = set()
    for row in rows:
        for value in row.values.values():
            if (value.dims, value.labels) in seen:
                continue
            seen.add((value.dims, value.labels))
            for dim, labels in zip(value.dims, value.labels, strict=True):
                if labels is not None:
                    known = union.setdefault(dim, {})
                    for label in labels:
                        known.setdefault(label, len(known))
    return union


def _place(value: Value, union: Mapping[str, Mapping[Any, int]]) -> Any:
    """Return the index that puts a value where its labels stand in the joined labels."""
    if not value.dims:
        return ...
    indices = [
        np.arange(size) if own is None else np.array([union[dim][label] for label in own], int)
        for dim, size, own in zip(value.dims, value.values.shape, value.labels, strict=True)
    ]
    return np.ix_(*indices)


def _blank(
    shape: tuple[int, ...], dtype: np.dtype[Any], *, keep_integers: bool = False
) -> NDArray[Any]:
    if dtype.kind in "UOT":
        return np.full(shape, "", dtype=object)
    if dtype.kind == "b" or (dtype.kind in "iu" and keep_integers):
        return np.zeros(shape, dtype=dtype)
    if dtype.kind in "iu":
        dtype = np.dtype(np.float64)  # integers have no way to say "missing"
    return np.full(shape, np.nan, dtype=dtype)


def _as_text(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(str) if values.dtype.kind == "O" else values
