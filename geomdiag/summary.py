"""A result in a few numbers a run: where it started, where it ended, what it never reached."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["summarise"]


def summarise(tree: xr.DataTree) -> list[dict[str, Any]]:
    """Return the headline numbers of every run of a result.

    Parameters
    ----------
    tree : xr.DataTree
        As `geomdiag.analyze` gives it.

    Returns
    -------
    list of dict
        One a run, of plain values, ready for JSON. "Last" means the last checkpoint that
        could be analysed; None or an empty mapping means that there is no such number.

        ``run``, ``task``, ``architecture`` : str
        ``coordinates`` : settings that the names of the run's folders spell out, by name
        ``checkpoints``, ``failed``, ``partial`` : int
        ``errors`` : list of dict with ``step``, ``status``, ``error``
        ``steps`` : first and last step, or None
        ``accuracy``, ``loss`` : by part (``train``, ``heldout``, ``all``), at the last step
        ``boundaries`` : ``t_memorised``, ``t_generalised``, ... with its ``step``, None when it
        was not reached or is not known, its ``interval`` (two steps), the ``interval_prob`` that
        this is for (None: it is the gap between two checkpoints, or the result is of an
        earlier version and does not tell), the ``first`` step at which
        the new state is seen, the step at which it is ``lost`` for good, whether it was there
        ``or_earlier`` than the record, the ``p_value`` of the break, the ``evidence`` for all that
        ``stage`` : name of the stage at the last step
        ``stage_order`` : whether the stages came in the paper's order, and at which steps
        ``stage_order_probability`` : how surely they did
        ``key_blocks`` : ``blocks`` of the embedding that stand out at the last step, strongest
        first, the ``share`` of power in them, whether blocks are ``frequencies``, and whether
        they generate the group (``generates``), None where that has no meaning
        ``symmetry_violation`` : by symmetry, the mean (nats) at the ``first`` and ``last`` step
        and its ``peak``, and whether the architecture enforces it (``architectural``)
        ``effective_dimension`` : of the embedding, likewise; and ``additivity``, where the tokens
        have ranks, and ``order``, by attribute, the left-out R² of its ranks
        ``compared`` : number of recorded losses and accuracies held against recomputed ones
        ``disagreement``, ``notices`` : list of str
        ``not_computed``, ``not_applicable`` : diagnostic to the reason why this checkpoint does
        not allow it, or why it has no meaning for the task
    """
    return [_run(name, node) for name, node in tree.children.items()]


def _run(name: str, node: xr.DataTree) -> dict[str, Any]:
    dataset = node.to_dataset()
    status = [str(value) for value in dataset["status"].values] if "status" in dataset else []
    steps = dataset["step"].values if "step" in dataset else np.array([], dtype=np.int64)
    errors = [
        {"step": int(steps[i]), "status": status[i], "error": str(dataset["error"].values[i])}
        for i in range(len(status))
        if status[i] != "ok"
    ]
    attrs = dataset.attrs
    return {
        "run": str(attrs.get("run", name)),
        "node": name,
        "task": str(attrs.get("task", "")),
        "architecture": str(attrs.get("architecture", "")),
        "split_source": str(attrs.get("split_source", "unknown")),
        "coordinates": {
            str(name): dataset[name].item() for name in dataset.coords if not dataset[name].ndim
        },
        "checkpoints": len(steps),
        "failed": status.count("failed"),
        "partial": status.count("partial"),
        "errors": errors,
        "steps": [int(steps[0]), int(steps[-1])] if len(steps) else None,
        "unit": "epoch" if dataset["step"].attrs.get("long_name") == "epoch" else "step",
        "accuracy": _by_part(dataset, "accuracy"),
        "loss": _by_part(dataset, "loss"),
        "boundaries": _boundaries(dataset),
        "stage": _stage(dataset),
        "stage_order": _words(dataset, "stage_order"),
        "stage_order_probability": _number(
            dataset["stage_order_probability"].item()
            if "stage_order_probability" in dataset
            else None
        ),
        "threshold": _words(dataset, "threshold_verdict"),
        "below_since": _step(dataset["below_since"].item()) if "below_since" in dataset else None,
        "forecast": _words(dataset, "forecast_verdict"),
        "key_blocks": _key_blocks(dataset),
        "symmetry_violation": _violations(dataset),
        "effective_dimension": _effective_dimension(dataset),
        "order": _order(dataset),
        "additivity": _course(dataset["additivity"]) if "additivity" in dataset else None,
        "compared": _compared(dataset),
        "disagreement": [str(one.get("text", one)) for one in _json(attrs.get("disagreement"), [])],
        "notices": [line for line in str(attrs.get("notices", "")).splitlines() if line],
        "not_computed": _json(attrs.get("not_computed"), {}),
        "not_applicable": _json(attrs.get("not_applicable"), {}),
    }


def _json(text: Any, default: Any) -> Any:
    try:
        return json.loads(text) if text else default
    except (TypeError, ValueError):
        return default


def _course(values: xr.DataArray) -> dict[str, float] | None:
    """Return the first, the largest and the last finite value along the steps."""
    numbers = np.asarray(values.values, dtype=np.float64)
    finite = numbers[np.isfinite(numbers)]
    if not len(finite):
        return None
    return {"first": float(finite[0]), "peak": float(finite.max()), "last": float(finite[-1])}


def _has(dataset: xr.Dataset, name: str, **labels: str) -> bool:
    return name in dataset and all(
        dim in dataset[name].dims and dim in dataset.coords and label in dataset[dim].values
        for dim, label in labels.items()
    )


def _by_part(dataset: xr.Dataset, name: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in ("train", "heldout", "all"):
        if _has(dataset, name, part=part) and (course := _course(dataset[name].sel(part=part))):
            found[part] = course["last"]
    return found


def _boundaries(dataset: xr.Dataset) -> dict[str, dict[str, Any]]:
    if "stage_boundary" not in dataset or dataset["stage_boundary"].dims != ("boundary",):
        return {}
    names = [str(name) for name in dataset["boundary"].values]
    evidence = (
        dataset["stage_evidence"].values if "stage_evidence" in dataset else [""] * len(names)
    )
    found: dict[str, dict[str, Any]] = {}
    for place, name in enumerate(names):
        told = {
            fact: _number(dataset["stage_fact"].sel(fact=fact).values[place])
            for fact in ("first", "lost", "or_earlier", "p_value", "interval_prob")
            if _has(dataset, "stage_fact", fact=fact)
        }
        ends = (
            dataset["stage_boundary_interval"].values[place].tolist()
            if _has(dataset, "stage_boundary_interval", ci_bound="lower")
            else [math.nan, math.nan]
        )
        found[name] = {
            "step": _step(dataset["stage_boundary"].values[place]),
            "interval": [_step(end) for end in ends],
            "interval_prob": told.get("interval_prob"),
            "first": _step(told.get("first")),
            "lost": _step(told.get("lost")),
            "or_earlier": bool(told.get("or_earlier")),
            "p_value": told.get("p_value"),
            "evidence": str(evidence[place]),
        }
    return found


def _words(dataset: xr.Dataset, name: str) -> str:
    return str(dataset[name].item()) if name in dataset else ""


def _number(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _step(value: Any) -> int | None:
    return int(value) if _number(value) is not None else None


def _stage(dataset: xr.Dataset) -> str:
    if "stage" not in dataset or not dataset["stage"].size:
        return "unknown"
    stage = dataset["stage"]
    values = np.atleast_1d(np.asarray(stage.attrs.get("flag_values", []))).tolist()
    meanings = str(stage.attrs.get("flag_meanings", "")).split()
    names = dict(zip(values, meanings, strict=False))
    known = [value for value in stage.values.tolist() if value in names]
    return names[known[-1]] if known else "unknown"


def _compared(dataset: xr.Dataset) -> int:
    if "disagreement" not in dataset:
        return 0
    return int(np.isfinite(dataset["disagreement"].values).sum())


def _key_blocks(dataset: xr.Dataset) -> dict[str, Any] | None:
    if not (_has(dataset, "key_block", matrix="embedding") and "power" in dataset):
        return None
    power = dataset["power"].sel(matrix="embedding")
    power = power.transpose("step", "block")
    good = np.flatnonzero(np.isfinite(power.values).any(axis=1))
    if not len(good):
        return None
    last = int(good[-1])
    key = dataset["key_block"].sel(matrix="embedding").transpose("step", "block")
    chosen = np.asarray(key.values[last]).astype(bool)
    row = np.where(chosen, power.values[last], -1.0)
    order = [int(i) for i in np.argsort(-row, kind="stable") if chosen[i]]
    return {
        "blocks": [str(power["block"].values[i]) for i in order],
        "share": float(sum(row[i] for i in order)),
        "generates": _generates(dataset, last),
        "frequencies": all(str(label).startswith("k=") for label in power["block"].values),
    }


def _generates(dataset: xr.Dataset, row: int) -> bool | None:
    if not _has(dataset, "helix", matrix="embedding", measure="generates"):
        return None
    value = float(dataset["helix"].sel(matrix="embedding", measure="generates").values[row])
    return bool(value) if math.isfinite(value) else None


def _order(dataset: xr.Dataset) -> dict[str, dict[str, float]]:
    if not _has(dataset, "order", measure="r2_loo"):
        return {}
    fits = dataset["order"].sel(measure="r2_loo")
    courses = {str(one): _course(fits.sel(attribute=one)) for one in fits["attribute"].values}
    return {attribute: course for attribute, course in courses.items() if course is not None}


def _violations(dataset: xr.Dataset) -> dict[str, dict[str, Any]]:
    if not _has(dataset, "symmetry_violation", statistic="mean"):
        return {}
    mean = dataset["symmetry_violation"].sel(statistic="mean")
    found: dict[str, dict[str, Any]] = {}
    for symmetry in mean["symmetry"].values.tolist():
        if course := _course(mean.sel(symmetry=symmetry)):
            found[str(symmetry)] = {**course, "architectural": _architectural(dataset, symmetry)}
    return found


def _architectural(dataset: xr.Dataset, symmetry: str) -> bool:
    if not _has(dataset, "symmetry_architectural", symmetry=symmetry):
        return False
    return bool(np.any(dataset["symmetry_architectural"].sel(symmetry=symmetry).values == 1))


def _effective_dimension(dataset: xr.Dataset) -> dict[str, float] | None:
    if not _has(dataset, "dimension", matrix="embedding", measure="effective_dimension"):
        return None
    return _course(dataset["dimension"].sel(matrix="embedding", measure="effective_dimension"))
