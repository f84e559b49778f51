"""What an analysis of a run ends as: its dataset and attributes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import xarray as xr

from geomdiag._version import version
from geomdiag.analysis.agreement import compare
from geomdiag.analysis.assembly import Row, assemble
from geomdiag.analysis.plan import label_noise
from geomdiag.analysis.steps import Plan
from geomdiag.registry import Registry

if TYPE_CHECKING:
    from geomdiag.analyzers.contract import Analyzer
    from geomdiag.checkpoints.series import Series
    from geomdiag.tasks.contract import Task

__all__ = ["DERIVED", "Job", "add_coordinates", "root_attrs", "run_dataset"]

#: What is derived from a run's dataset once it is whole: name → ``f(dataset) -> Dataset`` whose
#: variables and attributes are added. Rooms above this one come in here, by name.
DERIVED = Registry(
    "derived result",
    "geomdiag.derived",
    {
        "stages": "geomdiag.dynamics.stages:stages",
        "criterion": "geomdiag.dynamics.criterion:criterion",
        "forecast": "geomdiag.dynamics.forecast:forecast_run",
    },
)

_REFERENCE = "arXiv:2603.01968"


@dataclass(eq=False)
class Job:
    """A run on its way through the analysis."""

    series: Series
    plan: Plan
    node: str
    notices: list[str]
    key: str
    rows: list[Row | None] = field(default_factory=list)
    old: xr.Dataset | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    fresh: int = 0  # rows that had to be computed


def run_dataset(job: Job) -> xr.Dataset:
    """Return the whole of a run: rows, agreement with what it recorded, what is derived."""
    rows = [row for row in job.rows if row is not None]
    for row in rows:
        for name, reason in row.reasons.items():
            job.reasons.setdefault(name, reason)
    static = frozenset(name for one in job.plan.analyzers for name in one.static)
    dataset = assemble(rows, static)
    if job.series.unit:
        dataset["step"].attrs["long_name"] = {"epoch": "epoch", "step": "optimiser step"}.get(
            job.series.unit, job.series.unit
        )
    noisy = bool(label_noise(job.series.config))
    dataset = dataset.merge(agreement := compare(dataset, job.series.history, noisy=noisy))
    dataset.attrs = _node_attrs(job, rows, agreement.attrs)
    for function in DERIVED.values():
        more = function(dataset)
        attrs = {**dataset.attrs, **more.attrs}
        dataset = dataset.merge(more, join="exact")
        dataset.attrs = attrs
    return dataset


def add_coordinates(
    datasets: Mapping[str, xr.Dataset], jobs: Sequence[Job]
) -> dict[str, xr.Dataset]:
    """Return the runs' datasets with the settings that the runs' names spell out.

    They become scalar coordinates, absent where a run has none. One that is called like a
    variable or a dim of any result (``loss=mse``) is called ``name_loss`` instead, in every run.
    """
    from geomdiag.analyzers import ANALYZERS

    taken = {str(name) for one in datasets.values() for name in {*one.variables, *one.dims}}
    taken |= {name for one in ANALYZERS.values() for name in one.variables}
    result: dict[str, xr.Dataset] = {}
    for job in jobs:
        about = {"units": "1", "definition": "setting that the names of the run's folders spell"}
        result[job.node] = datasets[job.node].assign_coords(
            {
                f"name_{name}" if name in taken else name: (
                    (),
                    value,
                    {"long_name": name, **about},
                )
                for name, value in job.series.coordinates.items()
            }
        )
    return result


def _node_attrs(job: Job, rows: Sequence[Row], more: Mapping[str, Any]) -> dict[str, Any]:
    plan, series = job.plan, job.series
    facts: dict[str, str] = {}
    for row in rows:
        for name, fact in row.facts.items():
            facts.setdefault(name, fact)
    if job.old is not None:
        for name in ("architecture", "roles", "assumptions"):
            if name in job.old.attrs:
                facts.setdefault(name, job.old.attrs[name])
    assumptions = json.loads(facts.pop("assumptions", "[]"))
    split = series.split
    senseless = {
        one.name: reason
        for one in plan.analyzers
        if plan.task is not None and (reason := one.applies(plan.task))
    }
    missing = {name: why for name, why in job.reasons.items() if name not in senseless}
    return {
        "run": series.name,
        "path": series.path.name,
        "format": series.format,
        "task": plan.task.name if plan.task is not None else "",
        "task_parameters": json.dumps(dict(plan.task.parameters) if plan.task is not None else {}),
        "task_title": plan.task.title if plan.task is not None else "",
        "split_source": split.source if split is not None and plan.train is not None else "unknown",
        "train_inputs": -1 if plan.train is None else int(plan.train.sum()),
        "configuration": job.key,
        "run_config": json.dumps(_scalars(series.config), sort_keys=True),
        "not_computed": json.dumps(missing, ensure_ascii=False, sort_keys=True),
        "not_applicable": json.dumps(senseless, ensure_ascii=False, sort_keys=True),
        "assumptions": json.dumps(assumptions, ensure_ascii=False),
        "notices": "\n".join([*job.notices, *assumptions]),
        "architecture": facts.pop("architecture", ""),
        "roles": facts.pop("roles", "{}"),
        **_tokens(plan),
        **more,
    }


def _tokens(plan: Plan) -> dict[str, str]:
    """Return which rows of a larger vocabulary were taken, where they were chosen."""
    chosen = plan.selection.tokens if plan.selection is not None else None
    return {} if chosen is None else {"tokens": chosen.record()}


def _scalars(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers and words of a configuration: tables and objects are no attribute."""
    plain = (str, int, float, bool, type(None))
    return {str(name): value for name, value in config.items() if isinstance(value, plain)}


def root_attrs(
    task: str | Task | None,
    chosen: Sequence[Analyzer],
    model: Any,
    jobs: Sequence[Job],
    notices: Sequence[str],
) -> dict[str, Any]:
    """Return the attributes of the tree's root."""
    # No time of making: the same input gives the same bytes.
    tasks = [job.plan.task for job in jobs if job.plan.task is not None]
    alike = tasks and all(one.name == tasks[0].name for one in tasks)
    given = task if isinstance(task, str) else "" if task is None else task.name
    sources = dict.fromkeys(
        job.series.split.source if job.series.split and job.plan.train is not None else "unknown"
        for job in jobs
    )
    return {
        "title": "Symmetry and geometry over training checkpoints",
        "task": tasks[0].name if alike else given,
        "task_parameters": json.dumps(dict(tasks[0].parameters) if alike else {}),
        "geomdiag_version": version(),
        "configuration": json.dumps(
            {
                "analyzers": {one.name: one.version for one in chosen},
                "model": model if isinstance(model, str) else (model and "callable") or "",
                "task": given,
            },
            sort_keys=True,
        ),
        "split_source": ", ".join(sources),
        "notices": "\n".join(notices),
        "references": _REFERENCE,
    }
