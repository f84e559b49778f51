"""What several figures need of a result: variables or a reason, the axis of steps, one step."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geomdiag.errors import GeomdiagError
from geomdiag.plots.style import BANDS

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__all__ = [
    "corpus_of",
    "nearest_row",
    "only_task",
    "row_at",
    "run_name",
    "shade_stages",
    "step_axis",
    "unit_of",
    "variable",
]

FloatArray = NDArray[np.float64]


def variable(dataset: xr.Dataset, name: str, advice: str = "", **labels: str) -> xr.DataArray:
    """Return a variable at some labels.

    Parameters
    ----------
    dataset : xr.Dataset
        Result of one run.
    name : str
        Variable.
    advice : str
        What to do where it is missing.
    **labels : str
        Dim to the label wanted.

    Raises
    ------
    GeomdiagError
        If the result lacks it, or a label of it; the message says why and what to do.
    """
    if name not in dataset:
        reason = _why(dataset, name)
        raise GeomdiagError(
            f"{run_name(dataset)}: the result has no {name!r}{reason}. "
            + (advice or "Make it with `geomdiag analyze`.")
        )
    found = dataset[name]
    for dim, label in labels.items():
        known = found[dim].values.astype(str).tolist()
        if label not in known:
            raise GeomdiagError(
                f"{run_name(dataset)}: {name} has no {dim} {label!r}; known: {', '.join(known)}"
            )
        found = found.isel({dim: known.index(label)})
    return found


def _why(dataset: xr.Dataset, name: str) -> str:
    """Return the reasons that the result itself gives, for all that it could not compute."""
    reasons = []
    for key in ("not_computed", "not_applicable"):
        try:
            found = json.loads(str(dataset.attrs.get(key) or "{}"))
        except ValueError:
            continue
        reasons += [f"{one}: {why}" for one, why in found.items() if one in _sources(name)]
    return f" ({'; '.join(reasons)})" if reasons else ""


def _sources(name: str) -> tuple[str, ...]:
    """Return the diagnostics that a variable comes from."""
    return {
        "accuracy": ("fit",),
        "symmetry_js": ("symmetry",),
        "symmetry_violation": ("symmetry",),
        "dimension": ("dimension",),
        "power": ("spectrum",),
        "block_frequency": ("spectrum",),
        "persistence": ("topology",),
    }.get(name, ())


def run_name(dataset: xr.Dataset) -> str:
    """Return what the run is called."""
    return str(dataset.attrs.get("run") or "the run")


def row_at(dataset: xr.Dataset, step: int | None) -> int:
    """Return the row of a step; of the last one that was analysed without a step.

    Raises
    ------
    GeomdiagError
        If there is no such step.
    """
    steps = dataset["step"].values
    if step is None:
        if "status" in dataset:
            good = np.flatnonzero(dataset["status"].values.astype(str) != "failed")
            return int(good[-1]) if len(good) else len(steps) - 1
        return len(steps) - 1
    return nearest_row(steps, step, run_name(dataset))


def nearest_row(steps: NDArray[Any], step: int, name: str) -> int:
    """Return the row of a step, which must be there.

    Raises
    ------
    GeomdiagError
        If it is not; the message names the nearest ones.
    """
    found = np.flatnonzero(steps == step)
    if not len(found):
        near = np.sort(steps[np.argsort(np.abs(steps - step), kind="stable")[:2]])
        raise GeomdiagError(
            f"{name}: there is no checkpoint of step {step}; nearest: "
            f"{', '.join(str(one) for one in near)}"
        )
    return int(found[0])


def step_axis(ax: Axes, steps: Iterable[float], unit: str = "step") -> None:
    """Make x an axis of steps: logarithmic from 1, with room for 0 where there is a step 0."""
    known = np.asarray(list(steps), dtype=np.float64)
    known = known[np.isfinite(known)]
    first, last = (float(known.min()), float(known.max())) if len(known) else (1.0, 10.0)
    ax.set_xscale("symlog", linthresh=1.0, linscale=0.25)
    low = -0.15 if first < 1 else first / 1.1
    ax.set_xlim(low, max(last, 1.0) * 1.1)
    ticks = _decades(low, max(last, 1.0) * 1.1)
    ax.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlabel(f"{unit} (logarithmic from 1)")


def _decades(low: float, high: float) -> list[float]:
    """Return round steps of an axis, at least two where there is room."""
    top = math.ceil(math.log10(max(high, 1.0))) + 1
    for digits in ((1,), (1, 2, 5), range(1, 10)):
        ticks = [float(d * 10**e) for e in range(top) for d in digits]
        ticks = [tick for tick in ([0.0] if low < 0 else []) + ticks if low <= tick <= high]
        if len(ticks) > 2:
            return ticks
    return ticks or [round(low), round(high)]


def unit_of(dataset: xr.Dataset) -> str:
    """Return what the run counts in."""
    return "epoch" if dataset["step"].attrs.get("long_name") == "epoch" else "step"


def shade_stages(ax: Axes, dataset: xr.Dataset, *, numbered: bool = False) -> dict[str, str]:
    """Put a band behind each stage, from the step it begins to where the next one does.

    Parameters
    ----------
    ax : Axes
        With its axis of steps already made.
    dataset : xr.Dataset
        Result of one run; without ``stage`` nothing is drawn.
    numbered : bool
        Whether each band bears its number above the Axes.

    Returns
    -------
    dict of str to str
        Number and name of the stages that there are, to their colours.
    """
    if "stage" not in dataset:
        return {}
    stage, steps = dataset["stage"], dataset["step"].values
    flags = np.atleast_1d(stage.attrs.get("flag_values", []))
    names = dict(zip(flags, str(stage.attrs.get("flag_meanings", "")).split(), strict=False))
    values = stage.values
    starts = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
    ends = [*starts[1:], len(values) - 1]
    found = {}
    for start, end in zip(starts, ends, strict=True):
        flag, name = values[start], str(names.get(values[start], ""))
        if name not in BANDS or end == start:
            continue
        found[f"{flag} {name.replace('_', ' ')}"] = BANDS[name]
        ax.axvspan(steps[start], steps[end], color=BANDS[name], lw=0, zorder=0)
        if numbered:
            # between the ends as the axis, which is logarithmic, shows them
            low, high = ax.transData.transform([(steps[start], 0), (steps[end], 0)])[:, 0]
            middle = ax.transAxes.inverted().transform(((low + high) / 2, 0))[0]
            ax.text(
                middle, 1.02, str(flag), ha="center", va="bottom", fontsize=8.5,
                transform=ax.transAxes,
            )  # fmt: skip
    return dict(sorted(found.items()))


def corpus_of(runs: xr.DataTree | xr.Dataset) -> xr.Dataset:
    """Return many runs as one table: a corpus as it is, a result collected.

    Raises
    ------
    GeomdiagError
        If it is neither.
    """
    import xarray as xr

    from geomdiag.dynamics.corpus import collect

    if isinstance(runs, xr.Dataset):
        if "run_index" not in runs:
            raise GeomdiagError(
                "found the result of one run, expected many: a result as geomdiag.load gives it, "
                "or a corpus as geomdiag.dynamics.corpus.load_corpus does"
            )
        return runs
    nodes = ((name, node.to_dataset()) for name, node in runs.children.items())
    return collect(
        (str(node.attrs.get("run") or name), node) for name, node in nodes if "step" in node.dims
    )


def only_task(corpus: xr.Dataset, task: str | None) -> tuple[str, NDArray[np.int64]]:
    """Return a task and the runs of it; without a task the corpus must have only one.

    Raises
    ------
    GeomdiagError
        If there is no such task, or several and none was chosen.
    """
    tasks = corpus["task"].values.astype(str)
    known = sorted(set(tasks))
    if task is None and len(known) > 1:
        raise GeomdiagError(
            f"the runs are of {len(known)} tasks, which are not to be compared; choose one with "
            f"task (--task): {', '.join(known)}"
        )
    chosen = known[0] if task is None else task
    if chosen not in known:
        raise GeomdiagError(f"there are no runs of {chosen}; known: {', '.join(known)}")
    return chosen, np.flatnonzero(tasks == chosen)
