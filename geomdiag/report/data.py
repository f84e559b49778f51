"""What the page tells of each run, in plain values: courses over steps, and the spectrum."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Course", "courses", "spectra", "steps_of"]

#: Blocks of a spectrum that the page holds at most; the others are too weak to be seen.
MOST_BLOCKS = 64
_PARTS = {"train": "train", "heldout": "held-out", "all": "all inputs"}
_EMBEDDING = {"matrix": "embedding"}


class Course(NamedTuple):
    """One number at every step.

    Attributes
    ----------
    key : str
        Variable and labels, as the result calls them: its name in the files to download.
    label : str
        What it is, for people.
    unit : str
        Of the values; empty for shares and counts.
    values : list of float or None
        One a step; None where it is missing. ``"inf"`` is infinite: beyond a forecast's reach.
    """

    key: str
    label: str
    unit: str
    values: list[float | str | None]


class _Kind(NamedTuple):
    variable: str
    label: str
    unit: str = ""
    at: Mapping[str, Any] = MappingProxyType({})  # dim to the one label that is shown
    along: str = ""  # dim of which every label is shown


_KINDS = (
    _Kind("accuracy", "accuracy, {}", along="part"),
    _Kind("loss", "loss, {}", "nat", along="part"),
    _Kind("symmetry_js", "{}: Jensen-Shannon", "nat", {"statistic": "mean"}, "symmetry"),
    _Kind("symmetry_violation", "{}: symmetric KL", "nat", {"statistic": "mean"}, "symmetry"),
    _Kind(
        "symmetry_violation", "{}: symmetric KL, largest", "nat", {"statistic": "max"}, "symmetry"
    ),
    _Kind("logit_scale", "scale of the logits"),
    *(
        _Kind("dimension", label, at=_EMBEDDING | {"measure": measure})
        for measure, label in (
            ("effective_dimension", "effective dimension"),
            ("entropy_rank", "entropy rank"),
            ("participation_ratio", "participation ratio"),
        )
    ),
    _Kind("norm", "Frobenius norm", at=_EMBEDDING | {"kind": "frobenius"}),
    *(
        _Kind("concentration", label, at=_EMBEDDING | {"measure": measure})
        for measure, label in (
            ("gini", "Gini index of the spectrum"),
            ("effective_blocks", "effective number of blocks"),
        )
    ),
    *(
        _Kind("distortion", label, at=_EMBEDDING | {"measure": measure})
        for measure, label in (
            ("spearman", "distances: rank correlation with the task's"),
            ("stress", "distances: stress"),
            ("neighbour_recall", "distances: neighbour recall"),
        )
    ),
    _Kind("order", "order of {}: R² left out", at={"measure": "r2_loo"}, along="attribute"),
    _Kind("additivity", "additivity"),
    _Kind("equivariant_share", "equivariant share of the logits"),
    _Kind("alignment", "moved since the previous checkpoint", at={"measure": "displacement"}),
    *(
        _Kind("onset", f"forecast of the onset: {label}", "step", {"quantile": q}, "forecast_mode")
        for q, label in (
            (0.05, "5 % by, from {}"),
            (0.5, "median, from {}"),
            (0.95, "95 % by, from {}"),
        )
    ),
    _Kind("onset_never", "forecast: chance of never, from {}", along="forecast_mode"),
)


def steps_of(dataset: xr.Dataset) -> list[int]:
    """Return the steps of a run; none where it has no checkpoint."""
    return [int(step) for step in dataset["step"].values] if "step" in dataset.coords else []


def courses(dataset: xr.Dataset) -> list[Course]:
    """Return every course of a run that the result has a number of.

    Parameters
    ----------
    dataset : xr.Dataset
        Result of one run.

    Returns
    -------
    list of Course
        The values are the result's own, not rounded; courses without any value are left out.
    """
    return [course for kind in _KINDS for course in _of_kind(dataset, kind)]


def _of_kind(dataset: xr.Dataset, kind: _Kind) -> Iterator[Course]:
    if kind.variable not in dataset:
        return
    found = dataset[kind.variable]
    for dim, label in kind.at.items():
        place = _place(found, dim, label)
        if place is None:
            return
        found = found.isel({dim: place})
    fixed = [str(label) for label in kind.at.values()]
    if not kind.along:
        choices: list[tuple[str | None, xr.DataArray]] = (
            [(None, found)] if found.dims == ("step",) else []
        )
    elif set(found.dims) == {"step", kind.along} and kind.along in found.coords:
        labels = [str(one) for one in found[kind.along].values]
        choices = [(one, found.isel({kind.along: i})) for i, one in enumerate(labels)]
    else:
        return
    unit = kind.unit
    if unit == "step" and dataset["step"].attrs.get("long_name") == "epoch":
        unit = "epoch"
    for label, values in choices:
        numbers = np.asarray(values.values, dtype=np.float64)
        if np.isnan(numbers).all():
            continue
        labels = fixed + ([] if label is None else [label])
        yield Course(
            key=kind.variable + (f"[{','.join(labels)}]" if labels else ""),
            label=kind.label.format(_PARTS.get(label or "", (label or "").replace("_", " "))),
            unit=unit,
            values=[plain(number) for number in numbers],
        )


def _place(values: xr.DataArray, dim: str, label: Any) -> int | None:
    if dim not in values.dims or dim not in values.coords:
        return None
    known = values[dim].values
    if isinstance(label, float):
        near = np.flatnonzero(np.isclose(known.astype(np.float64), label))
        return int(near[0]) if len(near) else None
    names = known.astype(str).tolist()
    return names.index(label) if label in names else None


def plain(number: float) -> float | str | None:
    """Return a number as JSON can hold it."""
    if math.isnan(number):
        return None
    if math.isinf(number):
        return "inf" if number > 0 else "-inf"
    return float(number)


def spectra(dataset: xr.Dataset) -> dict[str, Any] | None:
    """Return the embedding's share of power in each block at each step.

    Parameters
    ----------
    dataset : xr.Dataset
        Result of one run.

    Returns
    -------
    dict or None
        ``blocks`` (labels, in the basis's order), ``left_out`` (number of blocks that never are
        among the `MOST_BLOCKS` strongest), ``key`` (whether each stands out, at the last step
        where this is known), ``power`` (a list a step, None where the checkpoint has none; five
        significant digits). None without a spectrum.
    """
    if "power" not in dataset:
        return None
    place = _place(dataset["power"], "matrix", "embedding")
    if place is None:
        return None
    power = dataset["power"].isel(matrix=place).transpose("step", "block")
    values = np.asarray(power.values, dtype=np.float64)
    if not np.isfinite(values).any():
        return None
    peaks = np.nan_to_num(values).max(axis=0)
    kept = np.sort(np.argsort(-peaks, kind="stable")[:MOST_BLOCKS])
    labels = power["block"].values.astype(str)
    key = np.zeros(len(labels), dtype=bool)
    if "key_block" in dataset and _place(dataset["key_block"], "matrix", "embedding") is not None:
        at = _place(dataset["key_block"], "matrix", "embedding")
        told = dataset["key_block"].isel(matrix=at).transpose("step", "block").values
        good = np.flatnonzero(np.isfinite(values).any(axis=1))
        key = np.asarray(told[good[-1]]).astype(np.float64) > 0
    return {
        "blocks": [str(labels[i]) for i in kept],
        "left_out": len(labels) - len(kept),
        "key": [bool(key[i]) for i in kept],
        "power": [
            [plain(float(f"{row[i]:.5g}")) for i in kept] if np.isfinite(row).any() else None
            for row in values
        ],
    }
