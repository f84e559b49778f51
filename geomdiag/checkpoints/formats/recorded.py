"""What is recorded beside a network inside one file: numbers, settings, curves, the split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from geomdiag.checkpoints.beside.curves import STEP_UNITS, standard_name, step_columns
from geomdiag.checkpoints.beside.splits import Split, split_inside
from geomdiag.checkpoints.formats.contract import Curve
from geomdiag.checkpoints.formats.inert import Inert
from geomdiag.checkpoints.formats.unfolding import Unfolding
from geomdiag.errors import CheckpointError

if TYPE_CHECKING:
    import torch

__all__ = [
    "CONFIG_KEYS",
    "Recorded",
    "as_tensor",
    "list_of_numbers",
    "read_beside",
    "read_settings",
    "steps_of",
    "whole",
]

CONFIG_KEYS = ("config", "cfg", "model_cfg", "train_cfg", "args", "hparams", "hyper_parameters")
#: Entries that settings may have.
_SETTINGS = 100_000


@dataclass(eq=False)
class Recorded:
    """What is said about the states in a file."""

    metadata: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    curves: list[Curve] = field(default_factory=list)
    split: Split | None = None
    notices: list[str] = field(default_factory=list)


def as_tensor(value: Any) -> torch.Tensor | None:
    """Return a tensor, or a NumPy array of numbers as one; None for anything else."""
    import torch

    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return torch.from_numpy(np.ascontiguousarray(value))
    return None


def scalar(value: Any) -> Any:
    """Return `value` as a Python number, text or truth value, or None."""
    if isinstance(value, bool | int | float | str):
        return value
    if not isinstance(value, Inert) and hasattr(value, "item") and np.ndim(value) == 0:
        number = value.item()
        return number if isinstance(number, bool | int | float | str) else None
    return None


def plain(value: Any, depth: int = 0, seen: Unfolding | None = None) -> Any:
    """Return settings as plain nested dicts, lists and scalars; None for anything else.

    Raises
    ------
    CheckpointError
        If they unfold to far more than settings are.
    """
    seen = seen or Unfolding(_SETTINGS)
    if isinstance(value, Inert):
        value = vars(value)
    elif hasattr(value, "__dataclass_fields__"):
        value = {name: getattr(value, name, None) for name in value.__dataclass_fields__}
    elif type(value).__name__ == "Namespace":
        value = vars(value)
    if isinstance(value, Mapping) and depth < 5:
        seen.enter(len(value), depth)
        items = {str(key): plain(item, depth + 1, seen) for key, item in value.items()}
        return {key: item for key, item in items.items() if item is not None}
    if isinstance(value, list | tuple) and len(value) <= 64 and depth < 9:
        seen.enter(len(value), depth)
        return [plain(item, depth + 1, seen) for item in value]
    return scalar(value)


def list_of_numbers(value: Any) -> list[float] | None:
    """Return a list of numbers, or None if `value` is not one."""
    if (tensor := as_tensor(value)) is not None:
        if tensor.ndim != 1 or tensor.is_complex():
            return None
        return [float(number) for number in tensor.tolist()]
    if not isinstance(value, list | tuple) or not value:
        return None
    numbers = [scalar(item) for item in value]
    if any(isinstance(item, str) or item is None for item in numbers):
        return None
    try:
        return [float(item) for item in numbers]
    except OverflowError:  # integers beyond every float
        return None


def whole(value: Any) -> bool:
    """Return whether `value` is a whole number, of whatever type."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) < 2**62  # neither infinite nor NaN
        and value == int(value)
    )


def steps_of(metadata: Mapping[str, Any]) -> dict[str, int]:
    """Return the step numbers among stored scalars, by unit."""
    return {
        unit: int(metadata[column])
        for unit, column in step_columns(metadata).items()
        if whole(metadata[column])
    }


def read_beside(recorded: Recorded, value: Mapping[str, Any]) -> None:
    """Fill in scalars, settings, curves and the split from the items beside the states."""
    columns: dict[str, Sequence[float]] = {}
    counted: dict[str, list[float]] = {}
    for key, item in value.items():
        if key in CONFIG_KEYS:
            read_settings(recorded, key, item)
        elif (number := scalar(item)) is not None:
            recorded.metadata[key] = number
        elif standard_name(key) and (numbers := list_of_numbers(item)) is not None:
            columns[key] = numbers
        elif key in STEP_UNITS and (numbers := list_of_numbers(item)) is not None:
            counted[key] = numbers
        elif "optim" in key and isinstance(item, Mapping):
            _read_optimizer(recorded, item)
    recorded.split = split_inside(value, "inside the checkpoint")
    by_length: dict[int, dict[str, Sequence[float]]] = {}
    for key, column in columns.items():
        by_length.setdefault(len(column), {})[key] = column
    for length, group in by_length.items():
        steps = {
            unit: [int(number) for number in counted[name]]
            for unit, name in step_columns(counted).items()
            if len(counted[name]) == length and all(map(whole, counted[name]))
        }
        recorded.curves.append(Curve(group, steps, "inside the checkpoint"))


def read_settings(recorded: Recorded, key: str, item: Any) -> None:
    """Add the settings that stand under a key, if they are settings."""
    try:
        settings = plain(item)
    except CheckpointError as error:  # data among them, or a bomb
        recorded.notices.append(f"the settings under {key!r} are left out: {error}")
        return
    if isinstance(settings, dict):
        recorded.config |= settings


def _read_optimizer(recorded: Recorded, item: Mapping[str, Any]) -> None:
    groups = item.get("param_groups")
    if isinstance(groups, list | tuple) and groups and isinstance(groups[0], Mapping):
        kept = {key: plain(groups[0].get(key)) for key in ("lr", "weight_decay", "betas", "eps")}
        recorded.metadata["optimizer"] = {k: v for k, v in kept.items() if v is not None}
