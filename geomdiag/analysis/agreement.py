"""Whether the numbers a run recorded are those its checkpoints give."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

if TYPE_CHECKING:
    from geomdiag.checkpoints.series import History

__all__ = ["TOLERANCE", "compare"]

#: Relative difference above which stored and recomputed values are said to disagree.
TOLERANCE = 0.01
#: Values below count as this much: beneath it float32 and a printed digit make the difference.
FLOOR = {"loss": 1e-5, "accuracy": 0.05}
#: Relative difference that no floor excuses, unless both values are below `LEAST`.
GROSS, LEAST = 0.5, 1e-9

#: Rows of the run's own curves are kept where the step has grown by this share since the last.
GROWTH = 1e-3

_QUANTITIES = ("train_loss", "heldout_loss", "train_accuracy", "heldout_accuracy")


def compare(dataset: xr.Dataset, history: History | None, *, noisy: bool = False) -> xr.Dataset:
    """Return what a run recorded, and how far the recomputed values are from it.

    Parameters
    ----------
    dataset : xr.Dataset
        A run with ``loss`` and ``accuracy``.
    history : History or None
        What the run recorded.
    noisy : bool
        Whether the run was trained on answers some of which are wrong on purpose: what it
        recorded of its train inputs is then of those, and is not compared.

    Returns
    -------
    xr.Dataset
        ``recorded`` and ``disagreement`` over (step, quantity), the latter relative to the
        recorded value (or the floor, where that is larger), and ``history`` over
        (history_step, quantity), the whole of the run's own curves; empty when there are
        none. Where some differ by more than `TOLERANCE`, the attribute ``disagreement`` of
        the Dataset lists, as JSON, each quantity with its worst step and the count of steps.
    """
    steps = dataset["step"].values
    recorded: dict[str, NDArray[np.float64]] = {}
    relative: dict[str, NDArray[np.float64]] = {}
    for quantity in _QUANTITIES:
        if history is None or quantity not in history.values:
            continue
        part, name = quantity.split("_")
        if noisy and part == "train":
            continue
        curve = np.asarray(history.values[quantity], dtype=np.float64)
        if not np.isfinite(curve).any():
            continue
        recorded[quantity] = _at(steps, history.step, curve)
        again = np.full(len(steps), np.nan)
        if name in dataset and "part" in dataset.coords and part in dataset["part"].values:
            again = dataset[name].sel(part=part).values.astype(np.float64)
        relative[quantity] = _relative(again, recorded[quantity], FLOOR[name])
    if history is None or not recorded:
        return xr.Dataset()
    kept = _thinned(history.step)
    outside = _outside(dataset, recorded)
    found = outside + [
        _verdict(quantity, steps, recorded[quantity], relative[quantity], dataset)
        for quantity in recorded
        if (relative[quantity] > TOLERANCE).any()
    ]
    dims = ("step", "quantity")
    return xr.Dataset(
        {
            "recorded": (
                dims,
                np.stack(list(recorded.values()), axis=1),
                {
                    "long_name": "value that the run itself recorded",
                    "units": "nat for losses, 1 for accuracies",
                    "definition": f"found in {history.source}",
                },
            ),
            "history": (
                ("history_step", "quantity"),
                np.stack(
                    [np.asarray(history.values[name], dtype=np.float64)[kept] for name in recorded],
                    axis=1,
                ),
                {
                    "long_name": "the run's own curves, between its checkpoints too",
                    "units": "nat for losses, 1 for accuracies",
                    "definition": f"found in {history.source}; a row is kept where the step has "
                    f"grown by {GROWTH:.1%} since the last one kept",
                },
            ),
            "disagreement": (
                dims,
                np.stack(list(relative.values()), axis=1),
                {
                    "long_name": "relative difference of recomputed and recorded value",
                    "units": "1",
                    "definition": "|recomputed − recorded| / max(|recorded|, floor), floor "
                    f"{FLOOR['loss']:g} nat for losses and {FLOOR['accuracy']:g} for accuracies "
                    f"(floor {LEAST:g} where that gives more than {GROSS:g}); "
                    f"above {TOLERANCE:g} the network that was run is probably not the one that "
                    "was trained",
                    "higher_is_better": 0,
                },
            ),
        },
        {
            "quantity": list(recorded),
            "history_step": (
                "history_step",
                np.asarray(history.step, dtype=np.int64)[kept],
                {"long_name": "optimiser step of the run's own curves", "units": "1"},
            ),
        },
        {"disagreement": json.dumps(found, ensure_ascii=False)} if found else {},
    )


def _thinned(steps: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows to keep of curves that may have one row for each of 100 000 steps."""
    kept: list[int] = []
    for row, step in enumerate(steps.tolist()):
        if not kept or row == len(steps) - 1 or step >= (1 + GROWTH) * steps[kept[-1]]:
            kept.append(row)
    return np.array(kept, dtype=np.int64)


def _outside(dataset: xr.Dataset, recorded: dict[str, NDArray[np.float64]]) -> list[dict[str, Any]]:
    """Return where, without a split, the accuracy over all inputs contradicts the record.

    Whatever the split, it lies between the accuracies on its two parts.
    """
    if "accuracy" not in dataset or "train" in dataset["part"].values:
        return []
    if not {"train_accuracy", "heldout_accuracy"} <= set(recorded):
        return []
    ends = np.stack([recorded["train_accuracy"], recorded["heldout_accuracy"]])
    low, high = ends.min(axis=0), ends.max(axis=0)
    again = dataset["accuracy"].sel(part="all").values.astype(np.float64)
    beyond = np.maximum(low - again, again - high)
    if not (beyond > TOLERANCE).any():
        return []
    worst = int(np.nanargmax(beyond))
    count, compared = int((beyond > TOLERANCE).sum()), int(np.isfinite(beyond).sum())
    step = int(dataset["step"].values[worst])
    return [
        {
            "quantity": "accuracy",
            "step": step,
            "stored": float(low[worst] if again[worst] < low[worst] else high[worst]),
            "recomputed": float(again[worst]),
            "steps": count,
            "compared": compared,
            "text": f"accuracy: the run recorded {ends[0, worst]:.6g} on train and "
            f"{ends[1, worst]:.6g} on held-out inputs at step {step}, and the checkpoint gives "
            f"{again[worst]:.6g} over all, which is not in between (the worst of {count} of "
            f"{compared} such steps). Check the task and the settings of the network.",
        }
    ]


def _relative(
    again: NDArray[np.float64], stored: NDArray[np.float64], floor: float
) -> NDArray[np.float64]:
    """Return how far two values are apart, relative to the stored one or the floor.

    Where they are apart by more than `GROSS` of a stored value that is itself below the
    floor, the floor does not count: rounding changes a tiny loss by a fifth, not by half.
    """
    apart = np.abs(again - stored)
    plain = apart / np.maximum(np.abs(stored), LEAST)
    gross = (plain > GROSS) & (np.maximum(np.abs(again), np.abs(stored)) > LEAST)
    return np.where(gross, plain, apart / np.maximum(np.abs(stored), floor))


def _verdict(
    quantity: str,
    steps: NDArray[np.int64],
    stored: NDArray[np.float64],
    relative: NDArray[np.float64],
    dataset: xr.Dataset,
) -> dict[str, Any]:
    part, name = quantity.split("_")
    worst = int(np.nanargmax(relative))
    again = float(dataset[name].sel(part=part).values[worst])
    count, compared = int((relative > TOLERANCE).sum()), int(np.isfinite(relative).sum())
    return {
        "quantity": quantity,
        "step": int(steps[worst]),
        "stored": float(stored[worst]),
        "recomputed": again,
        "steps": count,
        "compared": compared,
        "text": f"{quantity}: the run recorded {stored[worst]:.6g} at step {steps[worst]}, the "
        f"checkpoint gives {again:.6g} (the worst of {count} of {compared} steps that differ by "
        f"more than {TOLERANCE:.0%}). Check the task, the split and the settings of the network.",
    }


def _at(
    wanted: NDArray[np.int64], steps: NDArray[np.int64], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the values at the wanted steps, NaN where none was recorded."""
    result = np.full(len(wanted), np.nan)
    if len(steps):
        place = np.minimum(np.searchsorted(steps, wanted), len(steps) - 1)
        hit = steps[place] == wanted
        result[hit] = values[place[hit]]
    return result
