"""What is to be done for a run, and what a finished step must agree with to be used again."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geomdiag._version import version
from geomdiag.analysis.asked import Asked, Naming, asked_of
from geomdiag.analysis.steps import Plan
from geomdiag.errors import (
    ArchitectureError,
    GeomdiagError,
    OptionsError,
    SplitError,
    TaskError,
    UnknownNameError,
)

if TYPE_CHECKING:
    from geomdiag.analyzers.contract import Analyzer
    from geomdiag.checkpoints.beside.splits import Split
    from geomdiag.checkpoints.runs import Runs
    from geomdiag.checkpoints.series import Checkpoint, Series
    from geomdiag.models.selection import Selection
    from geomdiag.tasks.contract import Task

__all__ = [
    "as_series",
    "choose",
    "fingerprint",
    "label_noise",
    "node_names",
    "prepare",
    "said_task",
]

#: Raised when rows change for a reason that no analyzer's version tells.
SCHEMA = 1


def as_series(
    runs: str | os.PathLike[str] | Runs | Series | Iterable[Any], split: Split | str | None
) -> tuple[list[Series], list[str]]:
    """Return all runs, with the split that was asked for, and the notices of the whole.

    Raises
    ------
    CheckpointError
        If a path holds no checkpoints.
    SplitError
        If `split` cannot be understood.
    """
    from geomdiag.checkpoints import Series, open_runs, parse_split

    if isinstance(split, str):
        split = parse_split(split)
    if isinstance(runs, str | os.PathLike):
        opened = open_runs(runs, split=split)
        return list(opened.values()), list(opened.notices)
    if isinstance(runs, Series):
        return [runs if split is None else replace(runs, split=split)], []
    if isinstance(runs, Mapping):
        found: list[Series] = list(runs.values())
        notices = list(getattr(runs, "notices", ()))
        return [run if split is None else replace(run, split=split) for run in found], notices
    series: list[Series] = []
    gathered: list[str] = []
    one: Any
    folders: list[str] = []
    for one in runs:
        more, notes = as_series(one, split)
        path = getattr(one, "path", one if isinstance(one, str | os.PathLike) else "")
        name = path.name if hasattr(path, "name") else Path(path).name
        folders += [name] * len(more)
        series += more
        gathered += notes
    # runs of several folders are often called the same (seed=0): the folder tells them apart
    count = Counter(run.name for run in series)
    for number, (run, folder) in enumerate(zip(series, folders, strict=True)):
        if count[run.name] > 1 and folder:
            series[number] = replace(run, name=f"{folder}/{run.name}")
    return series, gathered


def choose(analyzers: Sequence[str | Analyzer] | None) -> tuple[Analyzer, ...]:
    """Return the diagnostics asked for, by default those that are made to run always.

    Beside the registered names, ``"default"`` and ``"all"`` stand for these.

    Raises
    ------
    UnknownNameError
        If a name is not registered.
    """
    from geomdiag.analyzers import ANALYZERS

    names: list[str | Analyzer] = ["default"] if analyzers is None else []
    names += [analyzers] if isinstance(analyzers, str) else list(analyzers or ())
    found: list[Analyzer] = []
    for one in names:
        if one in ("default", "all"):
            found += [each for each in ANALYZERS.values() if each.default or one == "all"]
        else:
            found.append(ANALYZERS[one] if isinstance(one, str) else one)
    return tuple({one.name: one for one in found}.values())


def prepare(
    series: Series,
    task: str | Task | None,
    analyzers: tuple[Analyzer, ...],
    model: Any,
    *,
    split_given: bool = False,
    naming: Naming | None = None,
) -> tuple[Plan, list[str]]:
    """Return the plan for a run and what a person should know about it.

    Raises
    ------
    SplitError
        If the split that the user gave does not fit the task.
    TaskError
        If no task is given, nor one said beside the run.
    OptionsError
        If the map or the tokens cannot be understood or do not fit.
    """
    asked = asked_of(series, task, model, naming or Naming())
    notices = asked.notices
    found, selection, problem = _task_of(series, asked, model)
    if selection is not None:
        notices += selection.notices
    said = said_task(series)
    if found is not None and said and _other(said, found):
        notices.append(
            f"WARNING: the run's own configuration says task {said!r}, and it is analysed as "
            f"{found.name}"
        )
    if noise := label_noise(series.config):
        notices.append(
            f"the run was trained with a share {noise:g} of wrong answers (label_noise): its train "
            "accuracy and loss are given for the right ones, and not held against what it recorded"
        )
    if found is not None and any(one.name == "symmetry" for one in analyzers):
        for name, why in found.left_out.items():
            notices.append(f"the symmetry {name} is left out: {why}")
    train = None
    reasons = {"split": "the split is unknown: none lies beside the checkpoints and none was given"}
    if found is not None and series.split is not None:
        try:
            train = series.split.mask(found.inputs)
        except SplitError as error:
            if split_given:
                raise
            reasons["split"] = f"the split found does not fit the task: {error}"
            notices.append(reasons["split"])
    folder = series.path if series.path.is_dir() else series.path.parent
    hide = dict.fromkeys(
        f"{one}{os.sep if isinstance(one, Path) else '/'}"
        for at in (folder, folder.resolve())
        for one in (at, at.parent)
    )
    plan = Plan(
        task=found,
        analyzers=analyzers,
        train=train,
        reasons=reasons,
        model=model,
        config=dict(series.config),
        hide=tuple(one for one in hide if len(one) > 3),
        problem=problem,
        selection=selection,
    )
    return plan, notices


def fingerprint(plan: Plan) -> dict[str, Any]:
    """Return what the numbers of a step depend on beside the checkpoint itself."""
    chosen = {} if plan.selection is None else {"selection": plan.selection.token()}
    return {
        **chosen,
        "analyzers": {one.name: one.version for one in plan.analyzers},
        "config": _digest(plan.config),
        "geomdiag": version(),
        "model": _model_token(plan.model),
        "schema": SCHEMA,
        "split": "" if plan.train is None else _sha(np.packbits(plan.train).tobytes()),
        "task": plan.task.name if plan.task is not None else "",
    }


def node_names(names: Iterable[str]) -> list[str]:
    """Return a node's name for every run's name.

    One node a run, none nested: a slash becomes ``__``, what a path cannot hold becomes ``_``,
    and a name that is then taken gets a number. The run's own name is its attribute ``run``.
    """
    taken: set[str] = set()
    result: list[str] = []
    for name in names:
        plain = re.sub(r"[^\w.=+\-\[\](), ]", "_", name.replace("/", "__"))
        plain = re.sub(r"^[_.\s]+", "", plain).rstrip() or "run"  # "__" is Zarr's own prefix
        unique, number = plain, 1
        while unique.lower() in taken:
            number += 1
            unique = f"{plain}~{number}"
        taken.add(unique.lower())
        result.append(unique)
    return result


def label_noise(config: Mapping[str, Any]) -> float:
    """Return the share of train answers that a run's configuration says were made wrong."""
    said = config.get("label_noise")
    return float(said) if isinstance(said, int | float) else 0.0


def said_task(series: Series) -> str:
    """Return the task that the run's configuration names, or its first readable checkpoint.

    In that run's own words, whatever these are; empty where nothing is said.
    """
    said = series.config.get("task")
    if said is None:
        said = next((one.metadata.get("task") for one in series if not one.error), None)
    return said if isinstance(said, str) else ""


def _other(said: str, task: Task) -> bool:
    """Return whether a configuration names another known task."""
    from geomdiag import tasks
    from geomdiag.tasks.families import parse_specification

    family = said.partition(":")[0]
    if family not in tasks.TASKS or family != task.family:
        return family in tasks.TASKS
    try:
        meant, found = (
            parse_specification(name, {})[1].get("digest") for name in (said, task.name)
        )
        if meant and found:  # a file, wherever it lay
            return bool(meant != found)
        return tasks.task(said).name != task.name
    except TaskError:  # it says less than a task needs, or names a file that is elsewhere
        return False


def _unfit(checkpoint: Checkpoint, task: Task, config: Mapping[str, Any]) -> tuple[str, bool]:
    """Return why no known network with this task fits, and whether one would with another."""
    from geomdiag.models import full_config, recognise

    merged = full_config(checkpoint, config)
    specs = checkpoint.tensors.specs()
    try:
        recognise(specs, merged, task)
    except ArchitectureError as misfit:
        try:
            recognise(specs, merged, None)
        except ArchitectureError:
            return str(misfit), False
        return f"{checkpoint.path.name}: {misfit}", True
    return "", False


def _short(unfit: str) -> str:
    """Return why no network is run: what the settings ask for, or that none is known."""
    none = "no known architecture fits"
    return none if unfit.startswith(none) else unfit.removesuffix(".")


def _task_of(series: Series, asked: Asked, model: Any) -> tuple[Task | None, Selection | None, str]:
    """Return the task and the matrices taken by name; without a task, why there is none.

    The first checkpoint that tells it counts.
    """
    from geomdiag.models import infer_task

    problem = "the run has no checkpoints"
    tokens = None if asked.tokens is None else len(asked.tokens)
    for checkpoint in series:
        if checkpoint.error:
            problem = checkpoint.error
            continue
        try:
            own = replace(checkpoint)
            found = infer_task(asked.task, own, series.config, tokens=tokens)
            selection, misfit = _selection(own, found, asked, model, series.config)
            return (None, None, misfit) if misfit else (found, selection, "")
        except (UnknownNameError, OptionsError):
            raise
        except TaskError as error:
            return None, None, str(error)
        except GeomdiagError as error:
            problem = str(error)
    return None, None, problem


def _selection(
    checkpoint: Checkpoint, task: Task, asked: Asked, model: Any, config: Mapping[str, Any]
) -> tuple[Selection | None, str]:
    """Return the matrices to be taken by name, if any, or why the task does not fit.

    Beside a network that can be run they replace its own; where none can be, they are all
    that is analysed.
    """
    from geomdiag.models.embedding_names import named
    from geomdiag.models.mapping import select

    try:
        specs = checkpoint.tensors.specs()
    except GeomdiagError:
        if asked.mapping or asked.tokens is not None:
            raise
        return None, ""  # unreadable, which its row says
    if asked.tokens is not None:
        if model is not None:
            raise OptionsError(
                "tokens of a larger vocabulary were chosen and a model was given; a model is run "
                "on the task's own inputs. Leave --tokens or --model out."
            )
        only = "the tokens are chosen from a larger vocabulary, and no network is run on these"
        return select(specs, task, asked.mapping, asked.tokens, only=only), ""
    unfit, known = "", False
    if model is None and checkpoint.kind == "state":
        unfit, known = _unfit(checkpoint, task, config)
    if not unfit or checkpoint.program is not None:
        return select(specs, task, asked.mapping) if asked.mapping else None, ""
    if asked.mapping or not known:
        only = "the network does not fit the task" if known else _short(unfit)
        try:
            return select(specs, task, asked.mapping, only=only), ""
        except (ArchitectureError, OptionsError) as error:
            if asked.mapping:
                raise
            if named(specs, "embedding"):
                return None, f"{unfit} Nor can an embedding alone be analysed: {error}"
            return None, ""  # every checkpoint says itself what it lacks
    return None, unfit


def _model_token(model: Any) -> str:
    """Return a text that changes when the user's model does, as far as that can be seen."""
    if model is None:
        return ""
    if isinstance(model, str):
        from geomdiag.models import load_factory

        try:
            # the whole file: what the factory calls usually stands beside it
            file = inspect.getsourcefile(load_factory(model))
        except TypeError:
            file = None
        return f"{model} {_sha(Path(file).read_bytes())}" if file else model
    name = f"{getattr(model, '__module__', '')}:{getattr(model, '__qualname__', type(model))}"
    try:
        source = inspect.getsource(model)
    except (OSError, TypeError):
        return name
    return f"{name} {_sha(source.encode())}"


def _digest(value: Any) -> str:
    def fallback(other: Any) -> Any:
        if hasattr(other, "tolist"):
            return other.tolist()
        return f"{type(other).__module__}.{type(other).__qualname__}"

    return _sha(json.dumps(_keyed(value), sort_keys=True, default=fallback).encode())


def _keyed(value: Any) -> Any:
    """Return mappings with text for keys, so that they can be sorted."""
    if isinstance(value, Mapping):
        return {str(key): _keyed(item) for key, item in value.items()}
    return [_keyed(item) for item in value] if isinstance(value, list | tuple) else value


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


Progress = Callable[[int, int, str], None]
