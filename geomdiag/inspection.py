"""What lies at a path, what could be measured there, and what that would cost: before any work."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geomdiag.errors import ArchitectureError, CheckpointError, GeomdiagError

if TYPE_CHECKING:
    from geomdiag.analysis.steps import Plan
    from geomdiag.analyzers.contract import Analyzer
    from geomdiag.checkpoints import Checkpoint, Runs, Series, Split
    from geomdiag.models import Snapshot
    from geomdiag.tasks import Task

__all__ = ["Cost", "RunInspection", "inspect_runs"]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """An estimate, from measuring one checkpoint of the run.

    Attributes
    ----------
    per_checkpoint : float
        Seconds a checkpoint takes in one process of one thread.
    total : float
        Seconds the run takes with `workers` processes.
    memory : int
        Bytes that one process needs at its peak (the whole process, libraries included); 0
        where the system does not tell.
    workers : int
        Processes reckoned with.
    """

    per_checkpoint: float
    total: float
    memory: int
    workers: int


@dataclass(frozen=True, kw_only=True)
class RunInspection:
    """One run, as it would be analysed.

    Attributes
    ----------
    run : str
        Its name.
    path : Path
        File or folder.
    format : str
        Checkpoint format.
    checkpoints, unreadable : int
        How many there are, and how many of them could not even be opened.
    steps : tuple of int or None
        First and last.
    unit : str
        ``"step"`` or ``"epoch"``, empty where the run does not say.
    task : str
        With the parameters told by the checkpoints; empty when none was asked for or it does
        not fit.
    coordinates : mapping of str to int, float or str
        Settings that the names of its folders and file spell out.
    recorded_task : str
        What the run itself says it was trained on; empty where it does not.
    fitting : tuple of str
        Task specifications that the sizes allow, most likely first; only without a task.
    architecture, convention : str
        Recognised network, and whose names its tensors have; empty when there is none.
    roles : mapping of str to str
        Part to the name of the tensor that plays it.
    shapes : mapping of str to tuple of int
        Of every tensor.
    unused : tuple of str
        Tensors that play no part (constant buffers).
    split : str
        Where the train/held-out split comes from; ``"unknown"`` when there is none.
    train_inputs, inputs : int or None
        Their number; None without a task or a split.
    recorded : tuple of str
        Quantities that the run itself recorded.
    computed : mapping of str to tuple of str
        Diagnostic to the variables it will give; those it may give, where none was measured.
    not_computed : mapping of str to str
        Diagnostic to the reason why it will not be computed.
    problem : str
        Why the run cannot be analysed at all; else empty.
    suggestions : tuple of str
        What would help to say with ``--map``, best guess first, where no network is known.
    cost : Cost or None
        Estimate; None when it was not measured.
    notices : tuple of str
        What a person should know.
    """

    run: str
    path: Path
    format: str
    checkpoints: int
    unreadable: int
    steps: tuple[int, int] | None
    unit: str = ""
    coordinates: Mapping[str, int | float | str] = field(default_factory=dict)
    task: str = ""
    recorded_task: str = ""
    fitting: tuple[str, ...] = ()
    architecture: str = ""
    convention: str = ""
    roles: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    split: str = "unknown"
    train_inputs: int | None = None
    inputs: int | None = None
    recorded: tuple[str, ...] = ()
    computed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    not_computed: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""
    suggestions: tuple[str, ...] = ()
    cost: Cost | None = None
    notices: tuple[str, ...] = ()


def inspect_runs(
    runs: str | os.PathLike[str] | Runs | Series | Iterable[Any],
    task: str | Task | None = None,
    *,
    analyzers: Sequence[str | Analyzer] | None = None,
    model: Any = None,
    split: Split | str | None = None,
    mapping: Mapping[str, str] | str | None = None,
    tokens: str | Iterable[int] | Iterable[str] | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    measure: bool = True,
) -> list[RunInspection]:
    """Tell how runs would be analysed.

    Parameters
    ----------
    runs : path, Runs, Series, or iterable of these
        What to look at.
    task : str or Task, optional
        Without it, and without one in a ``geomdiag.toml`` beside the runs, no diagnostic can be
        judged.
    analyzers, model, split
        As in `geomdiag.analyze`.
    workers : int, optional
        Processes to reckon with; by default the cores this process may use.
    mapping, tokens, tokenizer
        As in `geomdiag.analyze`.
    measure : bool
        Whether to estimate the cost by measuring one checkpoint of each kind of run.

    Returns
    -------
    list of RunInspection
        A run that cannot be analysed is there, with its `problem`. What concerns no single
        run (files left out) stands in ``Runs.notices``.

    Raises
    ------
    CheckpointError
        If there are no checkpoints.
    SplitError, UnknownNameError
        If the split, the task or an analyzer was named wrongly.
    OptionsError
        If the map or the tokens cannot be understood or do not fit.
    """
    from geomdiag.analysis.asked import Naming
    from geomdiag.analysis.crew import one_thread
    from geomdiag.analysis.plan import as_series, choose, prepare

    series, _ = as_series(runs, split)
    chosen = choose(analyzers)
    naming = Naming.of(mapping, tokens, tokenizer)
    measured: dict[Any, tuple[float, frozenset[str]]] = {}
    seconds: list[float | None] = []
    found: list[RunInspection] = []
    for one in series:
        plan: Plan | None = None
        notices: list[str] = []
        if task is not None or one.options.task:
            plan, notices = prepare(
                one, task, chosen, model, split_given=split is not None, naming=naming
            )
        inspection = _look(one, plan, model, (*one.notices, *notices))
        each = None
        if measure and plan is not None and inspection.computed:
            kind = (inspection.task, tuple(inspection.shapes.items()), tuple(inspection.computed))
            if kind not in measured:
                with one_thread():
                    measured[kind] = _measured(plan, one)
            each, given = measured[kind]
            computed = {
                name: tuple(variable for variable in variables if variable in given)
                for name, variables in inspection.computed.items()
            }
            inspection = replace(inspection, computed=computed)
        seconds.append(each)
        found.append(inspection)
    return _with_costs(found, seconds, workers)


def _look(series: Series, plan: Plan | None, model: Any, notices: tuple[str, ...]) -> RunInspection:
    from geomdiag.analysis.plan import said_task

    checkpoint = next((one for one in reversed(series.checkpoints) if not one.error), None)
    facts: dict[str, Any] = {
        "run": series.name,
        "path": series.path,
        "format": series.format,
        "checkpoints": len(series),
        "unreadable": sum(bool(one.error) for one in series),
        "steps": (int(series.steps[0]), int(series.steps[-1])) if len(series) else None,
        "unit": series.unit,
        "coordinates": dict(series.coordinates),
        "recorded_task": said_task(series),
        "split": series.split.source if series.split is not None else "unknown",
        "recorded": tuple(series.history.values) if series.history is not None else (),
        "notices": notices,
    }
    if checkpoint is None:
        problem = series[0].error if len(series) else "the run has no checkpoints"
        return _hopeless(facts, problem)
    try:
        facts["shapes"] = {name: spec.shape for name, spec in checkpoint.tensors.specs().items()}
        parts = _parts(checkpoint, plan, series.config, model)
        assumed = parts.pop("assumed", ())
        facts |= {**parts, "notices": tuple(dict.fromkeys((*notices, *assumed)))}
        if plan is None:
            return RunInspection(**facts)
        if plan.task is None:
            return _hopeless(facts, plan.problem)
        facts |= {"task": plan.task.name, "inputs": len(plan.task.inputs)}
        if plan.train is not None:
            facts["train_inputs"] = int(plan.train.sum())
        facts |= _verdicts(plan, plan.snapshot(replace(checkpoint)))
    except GeomdiagError as error:
        if model is None and checkpoint.kind == "state" and "shapes" in facts:
            from geomdiag.models.mapping import suggest

            specs = checkpoint.tensors.specs()
            facts["suggestions"] = suggest(specs, None if plan is None else plan.task)
        return _hopeless(facts, str(error))
    return RunInspection(**facts)


def _hopeless(facts: dict[str, Any], problem: str) -> RunInspection:
    """Return the inspection of a run that cannot be analysed, saying so only once."""
    notices = tuple(notice for notice in facts["notices"] if problem not in notice)
    return RunInspection(**{**facts, "notices": notices}, problem=problem)


def _parts(
    checkpoint: Checkpoint, plan: Plan | None, config: Mapping[str, Any], model: Any
) -> dict[str, Any]:
    """Return which tensor plays which part, and what was assumed to say so."""
    from geomdiag.models.snapshot import EMBEDDING_ONLY

    names = tuple(checkpoint.tensors)
    chosen = plan.selection.roles if plan is not None and plan.selection is not None else {}
    if plan is not None and plan.selection is not None and plan.selection.only:
        unused = tuple(name for name in names if name not in chosen.values())
        return {"architecture": EMBEDDING_ONLY, "roles": chosen, "unused": unused}
    if checkpoint.kind == "dump":
        return {"architecture": "dump", "roles": {name: name for name in names} | chosen}
    if model is not None:
        return {"architecture": "the user's own model", "roles": chosen}
    from geomdiag.models import full_config, recognise
    from geomdiag.models.embedding_names import named
    from geomdiag.models.layout import fitting_specifications

    merged = full_config(checkpoint, config)
    try:
        match = recognise(checkpoint.tensors.specs(), merged, plan.task if plan else None)
    except ArchitectureError as error:
        if plan is not None and plan.task is None and plan.problem:
            raise ArchitectureError(plan.problem) from error
        known = named(checkpoint.tensors.specs(), "embedding")
        if plan is None and checkpoint.program is None and len(known) == 1:
            unused = tuple(name for name in names if name != known[0])
            alone = "none that is known, so its embedding alone can be analysed"
            return {"architecture": alone, "roles": {"embedding": known[0]}, "unused": unused}
        if checkpoint.program is None:
            raise
        checkpoint.program()  # raises if it cannot be loaded, or was not allowed to run
        unused = tuple(name for name in names if name not in chosen.values())
        return {"architecture": "the file's own program", "roles": chosen, "unused": unused}
    roles = {**match.roles, **chosen}
    return {
        "architecture": match.architecture,
        "convention": match.convention,
        "fitting": () if plan is not None else fitting_specifications(match.sizes, ""),
        "roles": roles,
        "assumed": match.notices,
        "unused": tuple(name for name in names if name not in set(roles.values())),
    }


def _verdicts(plan: Plan, snapshot: Snapshot) -> dict[str, Any]:
    """Return which diagnostics will be computed, and why the others will not."""
    from geomdiag.analyzers import ANALYZERS

    computed: dict[str, tuple[str, ...]] = {}
    reasons: dict[str, str] = {}
    for analyzer in plan.analyzers:
        if reason := plan.missing(analyzer, snapshot):
            reasons[analyzer.name] = reason
        else:
            computed[analyzer.name] = analyzer.variables
    chosen = {analyzer.name for analyzer in plan.analyzers}
    for name, analyzer in ANALYZERS.items():
        if not analyzer.default and name not in chosen:
            reasons[name] = "costly, so on request only: choose it by name, or all"
    return {"computed": computed, "not_computed": reasons}


def _measured(plan: Plan, series: Series) -> tuple[float, frozenset[str]]:
    """Return the seconds that one checkpoint takes, and the variables that it gives.

    It is read, run, measured and compared.
    """
    from geomdiag.analysis.steps import measure, measure_run

    readable = [one for one in series if not one.error]
    last, chain = readable[-1], readable[-2:]
    best = float("inf")
    for _ in range(2):  # the first one pays for imports and warms the caches
        began = time.perf_counter()
        row = measure(plan, replace(last))
        if row.status == "failed":
            raise CheckpointError(row.error)
        best = min(best, time.perf_counter() - began)
    began = time.perf_counter()
    compared, _ = measure_run(plan, [replace(one) for one in chain])
    seconds = best + (time.perf_counter() - began) / len(chain)
    return seconds, frozenset(name for each in (row, *compared) for name in each.values)


def _with_costs(
    found: Sequence[RunInspection], seconds: Sequence[float | None], workers: int | None
) -> list[RunInspection]:
    """Return the inspections with their costs, as many processes as `analyze` would start."""
    from geomdiag.analysis.crew import START_SECONDS

    jobs = [(one.checkpoints, each) for one, each in zip(found, seconds, strict=True) if each]
    if workers is None:
        affinity = getattr(os, "sched_getaffinity", None)
        workers = len(affinity(0)) if affinity else os.cpu_count() or 1
        saved = sum(count * each for count, each in jobs) * (1 - 1 / workers)
        workers = workers if saved > 2 * START_SECONDS else 1
    workers = max(1, min(workers, sum(count for count, _ in jobs)))
    memory = _peak_memory()
    return [
        replace(
            one,
            cost=Cost(
                per_checkpoint=each,
                total=each * one.checkpoints / workers,
                memory=memory,
                workers=workers,
            ),
        )
        if each
        else one
        for one, each in zip(found, seconds, strict=True)
    ]


def _peak_memory() -> int:
    """Return the most memory this process has held so far, in bytes; 0 where unknown."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
