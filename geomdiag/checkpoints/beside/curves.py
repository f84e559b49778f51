"""A run's own losses and accuracies: their many names, and their place among the steps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomdiag.checkpoints.series import History

__all__ = [
    "NAMES",
    "STEP_UNITS",
    "Table",
    "is_of_a_moment",
    "merge",
    "place",
    "standard_name",
    "standard_values",
    "step_columns",
]

#: Names of a `History`'s values.
NAMES = ("train_loss", "heldout_loss", "train_accuracy", "heldout_accuracy")

#: Keys and columns that count, with the unit they count in; the first found is preferred.
STEP_UNITS: dict[str, str] = {
    "step": "step",
    "steps": "step",
    "global_step": "step",
    "iteration": "step",
    "iterations": "step",
    "iter": "step",
    "it": "step",
    "its": "step",
    "n_steps": "step",
    "epoch": "epoch",
    "epochs": "epoch",
    "current_epoch": "epoch",
}

_PART = {
    "train": "train",
    "training": "train",
    "tr": "train",
    **dict.fromkeys(
        ("test", "val", "valid", "validation", "eval", "heldout", "held_out", "dev"), "heldout"
    ),
}
_QUANTITY = {
    **dict.fromkeys(("loss", "losses", "ce", "cross_entropy"), "loss"),
    **dict.fromkeys(("acc", "accs", "accuracy", "accuracies"), "accuracy"),
}
_STANDARD = {
    form: f"{part}_{quantity}"
    for part_name, part in _PART.items()
    for name, quantity in _QUANTITY.items()
    for form in (f"{part_name}_{name}", f"{name}_{part_name}")
}

#: (steps, values by standard name, source), rows in any order.
Table = tuple[NDArray[np.int64], dict[str, NDArray[np.float64]], str]


def standard_name(name: str) -> str | None:
    """Return the `History` name that `name` stands for, or None.

    ``val``, ``valid``, ``validation``, ``eval`` and ``test`` all mean held-out.
    """
    return _STANDARD.get(re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_"))


def standard_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the items of `values` under their `History` names.

    A bare ``loss`` or ``accuracy`` is the train part's when the same record also names a
    held-out part (the Hugging Face and Keras habit), else nobody's.
    """
    result: dict[str, Any] = {}
    for name, value in values.items():
        if (known := standard_name(name)) is not None:
            result.setdefault(known, value)
    for name, value in values.items():
        quantity = _QUANTITY.get(name.lower())
        if quantity and f"heldout_{quantity}" in result:
            result.setdefault(f"train_{quantity}", value)
    return result


def is_of_a_moment(name: str) -> bool:
    """Return whether a name counts steps, or is that of a loss or accuracy: no setting."""
    lower = name.lower()
    return lower in STEP_UNITS or lower in _QUANTITY or standard_name(name) is not None


def step_columns(names: Iterable[str]) -> dict[str, str]:
    """Return unit to the column among `names` that counts in it."""
    lower = {name.lower(): name for name in names}
    result: dict[str, str] = {}
    for key, unit in STEP_UNITS.items():
        if key in lower:
            result.setdefault(unit, lower[key])
    return result


def place(
    values: Mapping[str, Sequence[float]],
    steps: Mapping[str, Sequence[int]],
    *,
    unit: str,
    entries: Sequence[int],
    source: str,
) -> tuple[list[Table], list[str]]:
    """Set stored columns against the run's steps.

    Lists without steps of their own are used where their length says which steps they mean: one
    value for each checkpoint, or one for each step from 0 or 1 to the last. A run may have gone on
    after the last checkpoint, but not for so long that another one was due.

    Parameters
    ----------
    values : mapping of str to sequence of float
        Columns by stored name.
    steps : mapping of str to sequence of int
        Step columns by unit.
    unit : {"step", "epoch", ""}
        Unit of the run's steps.
    entries : sequence of int
        Steps of the checkpoints the columns were stored with, increasing.
    source : str
        Where they were found.

    Returns
    -------
    list of Table, list of str
        Tables, and what could not be placed.
    """
    tables: list[Table] = []
    problems: list[str] = []
    wanted = standard_values(values)
    chosen = steps.get(unit) if unit in steps else next(iter(steps.values()), None)
    if chosen is not None and unit and unit not in steps:
        # With one batch an epoch the two coincide; only then may one stand for the other.
        shared = {other: len(set(column) & set(entries)) for other, column in steps.items()}
        other = max(shared, key=shared.__getitem__)
        if 2 * shared[other] < max(len(entries), 1):
            return [], [f"{source}: counts in {other}s, the checkpoints in {unit}s; left out"]
        chosen = steps[other]
    for name, column in wanted.items():
        row = np.asarray(column, dtype=np.float64).ravel()
        at = _steps_for(len(row), chosen, entries)
        if at is None:
            problems.append(
                f"{source}: {len(row)} values of {name} without their steps are left out; the run "
                f"has {len(entries)} checkpoint(s), the last at {max(entries, default=0)}. Record "
                "a step with each value (a list or column 'step' as long as this one), or one "
                "value for each checkpoint or each step"
            )
            continue
        tables.append((at, {name: row}, source))
    return tables, problems


def _steps_for(
    length: int, given: Sequence[int] | None, entries: Sequence[int]
) -> NDArray[np.int64] | None:
    if given is not None and len(given) == length:
        return np.asarray(given, dtype=np.int64)
    if not entries:
        return None
    if length == len(entries):
        return np.asarray(entries, dtype=np.int64)
    last = max(entries)
    if length == last:
        return np.arange(1, length + 1, dtype=np.int64)
    gap = last - sorted(entries)[-2] if len(entries) > 1 else 1
    if last < length <= last + gap:
        return np.arange(length, dtype=np.int64)
    return None


def merge(tables: Sequence[Table]) -> History | None:
    """Join tables into one history; where two tell the same value the earlier table counts.

    Parameters
    ----------
    tables : sequence of Table
        In order of trust.

    Returns
    -------
    History or None
        None when there is no value at all.
    """
    tables = [table for table in tables if len(table[0]) and table[1]]
    if not tables:
        return None
    step = np.unique(np.concatenate([table[0] for table in tables]))
    values = {name: np.full(len(step), np.nan) for name in NAMES}
    sources: list[str] = []
    for at, columns, source in tables:
        rows = np.searchsorted(step, at)
        for name, column in columns.items():
            new = np.full(len(step), np.nan)
            new[rows] = column  # of repeated steps the last row counts
            values[name] = np.where(np.isnan(values[name]), new, values[name])
        if source not in sources:
            sources.append(source)
    known = {name: column for name, column in values.items() if not np.isnan(column).all()}
    if not known:
        return None
    keep = ~np.all([np.isnan(column) for column in known.values()], axis=0)
    return History(
        step=step[keep],
        values={name: column[keep] for name, column in known.items()},
        source=", ".join(sources),
    )
