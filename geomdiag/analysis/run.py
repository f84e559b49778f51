"""Series × task × analyzers → one DataTree, a node a run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import xarray as xr

from geomdiag.analysis.asked import Naming
from geomdiag.analysis.assembly import Row, rows_of
from geomdiag.analysis.crew import Crew, WorkerDiedError
from geomdiag.analysis.plan import (
    Progress,
    as_series,
    choose,
    fingerprint,
    node_names,
    prepare,
)
from geomdiag.analysis.result import Job, add_coordinates, root_attrs, run_dataset
from geomdiag.analysis.steps import measure, measure_run
from geomdiag.errors import TaskError

if TYPE_CHECKING:
    from geomdiag.analyzers.contract import Analyzer
    from geomdiag.checkpoints.beside.splits import Split
    from geomdiag.checkpoints.runs import Runs
    from geomdiag.checkpoints.series import Series
    from geomdiag.store import Journal
    from geomdiag.tasks.contract import Task

__all__ = ["LEFT", "Work", "analyze", "carry_out", "entry_of", "job_of", "work_of"]

#: Why what compares the checkpoints of a run may not be there.
LEFT = (
    "left for later: it compares all checkpoints with one another, and new ones come faster than "
    "leaves time for it"
)


def analyze(
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
    previous: xr.DataTree | None = None,
    progress: Progress | None = None,
    journal: Journal | str | os.PathLike[str] | None = None,
) -> xr.DataTree:
    """Measure every checkpoint of every run.

    Parameters
    ----------
    runs : path, Runs, Series, or iterable of these
        What to analyse.
    task : str or Task, optional
        E.g. ``"modadd"``; parameters left unsaid are read off the checkpoints. May be left out
        where a ``geomdiag.toml`` beside the runs says it; what is given here wins over that
        file, here and in what follows.
    analyzers : sequence of str or Analyzer, optional
        Diagnostics by name; by default all that are cheap enough to run always. The names
        ``"default"`` and ``"all"`` stand for these, and for every one there is.
    model : str or callable, optional
        The user's own model, see `geomdiag.models.load_factory`.
    split : Split or str, optional
        Train/held-out split of all runs, instead of any found beside them; text as in
        `geomdiag.checkpoints.parse_split`.
    mapping : mapping of str to str, or str, optional
        Which tensor is the ``embedding``, ``unembedding``, ...; see
        `geomdiag.models.mapping.select`. Where no known network is found, these matrices
        alone are analysed.
    tokens : str, or sequence of int or of str, optional
        Rows of a larger vocabulary that stand for the task's elements, in order; see
        `geomdiag.models.tokens.choose_tokens`. No network is then run.
    tokenizer : path, optional
        What turns strings into token ids; by default a ``tokenizer.json``, ``vocab.json`` or
        ``vocab.txt`` beside the checkpoints.
    workers : int, optional
        Processes, of one thread each. By default as many as there are cores as soon as the
        first checkpoints show that starting them pays. The result does not depend on it.
    previous : xr.DataTree, optional
        An earlier result: steps whose digest, task and configuration agree are taken from it.
    progress : callable, optional
        ``progress(done, total, label)``, called when a step is finished.
    journal : Journal or path, optional
        Where finished steps are kept, so that a killed analysis takes up where it was. The
        caller clears it once the result is safe.

    Returns
    -------
    xr.DataTree
        One node a run, named after it (see the attribute ``run`` for its full name), with the
        index ``step``. A dim that several variables share holds the labels of all of them
        (``measure``); a variable is NaN at labels that are not its own. A checkpoint that could
        not be read or run is a row of missing numbers with ``status`` and ``error``; a
        diagnostic that could not be computed, or has no meaning for the task, is named in the
        attribute ``not_computed`` or ``not_applicable``, with its reason, as JSON. Settings
        that the names of a run's folders spell out (``seed=3/wd=1.0``) are scalar coordinates.

    Raises
    ------
    CheckpointError
        If there are no checkpoints.
    TaskError, SplitError, UnknownNameError
        If the task, the split or an analyzer was named wrongly, or no run tells the task's
        parameters.
    OptionsError
        If the map or the tokens cannot be understood or do not fit.

    Examples
    --------
    >>> tree = analyze("runs/", "modadd")  # doctest: +SKIP
    >>> tree["seed0"]["accuracy"].sel(part="heldout")  # doctest: +SKIP
    """
    work = work_of(
        runs,
        task,
        analyzers=analyzers,
        model=model,
        split=split,
        mapping=mapping,
        tokens=tokens,
        tokenizer=tokenizer,
    )
    return carry_out(work, workers, previous, progress, journal)


@dataclass(frozen=True, eq=False)
class Work:
    """What is to be done, nothing of it done yet."""

    jobs: Sequence[Job]
    chosen: tuple[Analyzer, ...]
    task: str | Task | None
    model: Any
    notices: Sequence[str]


def work_of(
    runs: Any,
    task: str | Task | None,
    *,
    analyzers: Sequence[str | Analyzer] | None = None,
    model: Any = None,
    split: Split | str | None = None,
    mapping: Mapping[str, str] | str | None = None,
    tokens: str | Iterable[int] | Iterable[str] | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
) -> Work:
    """Return what `analyze` would do; what is wrong with its arguments is raised here."""
    naming = Naming.of(mapping, tokens, tokenizer)
    series, notices = as_series(runs, split)
    chosen = choose(analyzers)
    names = node_names(one.name for one in series)
    jobs = [
        job_of(one, name, task, chosen, model, split is not None, naming)
        for one, name in zip(series, names, strict=True)
    ]
    if jobs and all(job.plan.task is None for job in jobs):
        raise TaskError(jobs[0].plan.problem)
    return Work(jobs, chosen, task, model, notices)


def carry_out(
    work: Work,
    workers: int | None,
    previous: xr.DataTree | None,
    progress: Progress | None,
    journal: Journal | str | os.PathLike[str] | None,
    *,
    compare: bool = True,
    choose_rows: Callable[[Sequence[Job]], None] | None = None,
) -> xr.DataTree:
    """Do what is not in `previous` or in the journal yet, and return the whole.

    `compare`: also what compares the checkpoints of a run, at the cost of reading them all.
    `choose_rows`: takes the runs when their rows are there, and may take out some of these.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    jobs = work.jobs
    book = _open(journal)
    entries = set() if book is None else book.keys()
    for job in jobs:
        _reuse(job, previous, book, entries)
    with Crew([job.plan for job in jobs], workers) as crew:
        _measure_steps(jobs, crew, book, progress)
        if choose_rows is not None:
            choose_rows(jobs)
        _measure_runs(jobs, crew, compare)
    nodes = add_coordinates({job.node: run_dataset(job) for job in jobs}, jobs)
    root = xr.Dataset(attrs=root_attrs(work.task, work.chosen, work.model, jobs, work.notices))
    return xr.DataTree.from_dict({"/": root, **nodes})


def job_of(
    series: Series,
    node: str,
    task: str | Task | None,
    chosen: tuple[Analyzer, ...],
    model: Any,
    given: bool,
    naming: Naming | None = None,
) -> Job:
    """Return a run as it goes into the analysis; `given`: the split is the user's own."""
    plan, notices = prepare(series, task, chosen, model, split_given=given, naming=naming)
    key = json.dumps(fingerprint(plan), sort_keys=True)
    return Job(series, plan, node, [*series.notices, *notices], key, [None] * len(series))


def _open(journal: Journal | str | os.PathLike[str] | None) -> Journal | None:
    if journal is None:
        return None
    if isinstance(journal, str | os.PathLike):
        from geomdiag.store import Journal as Book

        journal = Book(journal)
    journal.open()
    return journal


# --- finished steps ----------------------------------------------------------------------------


def _reuse(job: Job, previous: xr.DataTree | None, book: Journal | None, entries: set[str]) -> None:
    """Fill in the rows that an earlier analysis left; `entries` are the journal's."""
    kept: dict[tuple[int, str], Row] = {}
    if previous is not None:
        for node in previous.children.values():
            same_run = node.attrs.get("run") == job.series.name
            if same_run and node.attrs.get("configuration") == job.key:
                job.old = node.to_dataset()
    if job.old is not None:
        of_steps = {v for one in job.plan.analyzers if one.scope == "step" for v in one.variables}
        kept = rows_of(job.old, frozenset(of_steps))
        job.reasons.update(json.loads(job.old.attrs.get("not_computed", "{}")))
    if not kept and not entries:
        return
    steps_kept = {step for step, _ in kept}
    for number, checkpoint in enumerate(job.series):
        if checkpoint.error or not (entries or checkpoint.step in steps_kept):
            continue
        try:
            digest = job.plan.digest(replace(checkpoint))
        except Exception:  # it fails again, and is reported, when it is measured
            continue
        row = kept.get((checkpoint.step, digest))
        if row is None and book is not None and entries:
            entry = book.get(entry_of(job, checkpoint.step, digest))
            row = Row.unpack(*entry) if entry is not None else None
        job.rows[number] = row


def entry_of(job: Job, step: int, digest: str) -> str:
    """Return the name under which a journal keeps a finished step."""
    return hashlib.sha256(f"{job.key}\0{step}\0{digest}".encode()).hexdigest()[:40]


# --- work --------------------------------------------------------------------------------------


def _measure_steps(
    jobs: Sequence[Job], crew: Crew, book: Journal | None, progress: Progress | None
) -> None:
    places = [
        (plan, number)
        for plan, job in enumerate(jobs)
        for number, row in enumerate(job.rows)
        if row is None
    ]
    total = sum(len(job.rows) for job in jobs)
    done = total - len(places)
    if progress is not None:
        progress(done, total, "")
    tasks = [(plan, replace(jobs[plan].series[number])) for plan, number in places]
    for index, row in crew.run(measure, tasks):
        plan, number = places[index]
        job = jobs[plan]
        if isinstance(row, WorkerDiedError):
            row = Row(step=job.series[number].step, status="failed", error=str(row))
        job.rows[number] = row
        job.fresh += 1
        if book is not None and row.status != "failed":
            header, arrays = row.pack()
            header["run"] = job.series.name
            book.put(entry_of(job, row.step, row.digest), header, arrays)
        done += 1
        if progress is not None:
            progress(done, total, f"{job.series.name} step {row.step}")


def _measure_runs(jobs: Sequence[Job], crew: Crew, compare: bool) -> None:
    """Add what compares the checkpoints of a run, taking it over when no row is new."""
    tasks = []
    for plan, job in enumerate(jobs):
        names = {v for one in job.plan.analyzers if one.scope == "run" for v in one.variables}
        if not any(one.scope == "run" for one in job.plan.analyzers):
            continue
        good = [number for number, row in enumerate(job.rows) if row and row.status != "failed"]
        left = LEFT in job.reasons.values()
        whole = job.old is not None and not left and len(job.old["step"]) == len(job.rows)
        kept = rows_of(job.old, frozenset(names)) if job.old is not None and whole else {}
        done = [row for row in job.rows if row is not None and row.status != "failed"]
        # a row of the journal is not fresh, and yet may be in no earlier result
        if whole and not job.fresh and all((row.step, row.digest) in kept for row in done):
            for own in done:
                own.values.update(kept[own.step, own.digest].values)
        elif not compare:
            job.reasons.update((one.name, LEFT) for one in job.plan.analyzers if one.scope == "run")
        else:
            tasks.append((plan, good, [replace(job.series[number]) for number in good]))
    for index, result in crew.run(measure_run, [(plan, chain) for plan, _, chain in tasks]):
        plan, good, _ = tasks[index]
        if isinstance(result, WorkerDiedError):
            for one in jobs[plan].plan.analyzers:
                if one.scope == "run":
                    jobs[plan].reasons[one.name] = f"failed: {result}"
            continue
        rows, reasons = result
        for one in jobs[plan].plan.analyzers:
            if one.scope == "run":
                jobs[plan].reasons.pop(one.name, None)
        jobs[plan].reasons.update(reasons)
        for number, extra in zip(good, rows, strict=True):
            row = jobs[plan].rows[number]
            if row is not None:
                row.values.update(extra.values)
