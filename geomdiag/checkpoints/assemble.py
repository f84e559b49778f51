"""One run's files → `Series`: steps, doubles, strangers, curves, settings, split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from geomdiag.checkpoints.beside.agreement import contradiction
from geomdiag.checkpoints.beside.curves import NAMES, Table, merge, place, standard_values
from geomdiag.checkpoints.beside.sidecars import Sidecars, collect
from geomdiag.checkpoints.beside.splits import Split
from geomdiag.checkpoints.beside.trackers import (
    is_mlflow_run,
    lightning_logs,
    mlflow_records,
    version_of,
    wandb_files,
    wandb_logs,
)
from geomdiag.checkpoints.beside.wandb_log import read_log
from geomdiag.checkpoints.discover import Candidate, Group, is_container, stem_of
from geomdiag.checkpoints.formats.contract import Contents, Format, NotACheckpointError
from geomdiag.checkpoints.ordering import (
    Item,
    in_order,
    refuse_mixture,
    same_content,
    unit_of,
)
from geomdiag.checkpoints.places.copies import local_copy
from geomdiag.checkpoints.places.paths import AnyPath
from geomdiag.checkpoints.series import Checkpoint, Series, TensorMap, as_tensors
from geomdiag.errors import CheckpointError, UnsafeCheckpointError

__all__ = ["Opened", "assemble", "open_group"]

#: Numbers stored beside the weights that are settings of the whole run.
_OF_THE_RUN = frozenset(("seed", "p", "prime", "modulus", "frac_train", "train_frac", "d_model"))


@dataclass(eq=False)
class Opened:
    """A group whose files were opened once."""

    group: Group
    items: list[Item] = field(default_factory=list)
    failures: list[tuple[Candidate, CheckpointError]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    joined: bool = False  # by numbers that are no explicit steps
    guess: str = ""  # the notice that says so


def open_group(group: Group, *, allow_pickle: bool) -> Opened:
    """Open every file of a run once, without reading tensor values.

    Raises
    ------
    NotACheckpointError
        If all its files are readable and none holds a network.
    """
    opened = Opened(group, notices=list(group.notices))
    others: list[NotACheckpointError] = []
    told: dict[str, list[str]] = {}  # what the files have to say, and which ones say it
    for file in group.files:
        try:
            if file.refused is not None or file.format is None:
                raise file.refused or CheckpointError(f"{file.path}: of no known format")
            contents = _open(file.format, file.path, allow_pickle)
        except NotACheckpointError as error:
            others.append(error)
            opened.notices.append(f"left out: {error}")
        except CheckpointError as error:
            opened.failures.append((file, error))
        else:
            opened.items += [Item(file, entry, contents) for entry in contents.entries]
            for notice in contents.notices:
                told.setdefault(notice, []).append(file.path.name)
    if others and not opened.items and not opened.failures:
        raise others[0]
    for notice, (first, *more) in told.items():
        others_too = f" and {len(more)} other(s)" if more else ""
        opened.notices.append(f"{first}{others_too}: {notice}")
    return opened


def _open(form: Format, path: AnyPath, allow_pickle: bool) -> Contents:
    """Open a file; hold a plugin to what formats must hand back."""
    near = path if getattr(form, "remote", False) else local_copy(path, kept=True)
    contents: Any = form.open(near, allow_pickle=allow_pickle)
    if not isinstance(contents, Contents):
        raise CheckpointError(
            f"{path}: the format {form.name!r} returned a {type(contents).__name__}, expected "
            "geomdiag.checkpoints.formats.contract.Contents; the format's package must be mended"
        )
    for entry in contents.entries:
        entry.load = partial(_load, entry.load, path, form.name)
    return contents


def _load(load: Callable[[], Any], path: AnyPath, plugin: str) -> TensorMap:
    return as_tensors(load(), path=path, plugin=plugin)


def assemble(opened: Opened, *, name: str, path: AnyPath, split: Split | None) -> Series:
    """Make a series of an opened group.

    Parameters
    ----------
    opened : Opened
        See `open_group`.
    name : str
        The run's name.
    path : Path
        Its file or folder.
    split : Split or None
        Given by the user; counts more than any found.

    Returns
    -------
    Series

    Raises
    ------
    CheckpointError
        If two runs are mixed, two checkpoints claim one step, or no step can be told.
    """
    items, notices = opened.items, opened.notices
    refuse_mixture(items)
    beside = _collect(opened)
    notices += beside.notices
    unit = unit_of(items)
    items = in_order(items, beside, unit, len(opened.failures), notices)
    _add_scalars(items, beside)
    checkpoints = [_checkpoint(item) for item in items]
    checkpoints = _add_failures(checkpoints, opened.failures, notices)
    config = _config(items, beside, notices)
    series = Series(
        name=name,
        path=path,
        checkpoints=checkpoints,
        format=_format_name(opened),
        config=config,
        unit=unit or str(_guess_unit(beside, items)),
        notices=notices,
    )
    series.history = merge(_tables(items, beside, series.unit, notices))
    _set_split(series, items, beside, split)
    _warn_of_copies(series, items)
    return series


def _collect(opened: Opened) -> Sidecars:
    group = opened.group
    folders: list[AnyPath] = []
    for file in group.files:
        folder = file.path.parent
        while folder not in folders:
            folders.append(folder)
            if folder == group.root or version_of(folder) is not None:
                break
            if group.root.parent not in folder.parents:
                break
            folder = folder.parent
        if len(folders) > 8:  # one folder a step: the run's own folder is what matters
            break
    if group.root not in folders:
        folders.append(group.root)
    if is_container(group.root):
        folders.append(group.root.parent)
    folders += [*wandb_files(group.root), *lightning_logs(group.root)]
    beside = collect(
        folders,
        base=group.base,
        stems=[stem_of(file.path) for file in group.files],
        alone=group.alone,
        exclude={file.path for file in group.files}
        | {folder / "meta.yaml" for folder in folders if is_mlflow_run(folder)},
    )
    tracked = [("MLflow's params", mlflow_records(group.root))]
    tracked += [(log.name, read_log(log)) for log in wandb_logs(group.root)]
    for source, (settings, curves) in tracked:
        if problem := contradiction(beside.config, settings, "what lies beside", source):
            beside.notices.append(problem)
        beside.config = {**settings, **beside.config}
        beside.curves += curves
    return beside


def _add_scalars(items: Sequence[Item], beside: Sidecars) -> None:
    """Add what a file beside says of one checkpoint to that checkpoint's metadata."""
    for item in items:  # a file named like its checkpoint speaks of that one alone
        twin = beside.per_file.get(stem_of(item.file.path), {})
        if twin and not item.entry.member:
            item.entry.metadata = {**twin, **item.entry.metadata}
    if len(items) == 1:  # a summary of the run speaks of its only checkpoint
        stored = items[0].entry.metadata
        known = standard_values(stored)
        extra = {
            key: value
            for key, value in beside.scalars.items()
            if key == "all_loss" or (standard_values({key: value}).keys() - known.keys())
        }
        items[0].entry.metadata = {**extra, **stored}


def _checkpoint(item: Item) -> Checkpoint:
    entry = item.entry
    return Checkpoint(
        step=item.step or 0,
        step_source=item.source,
        path=item.file.path,
        member=entry.member,
        load=entry.load,
        metadata=entry.metadata,
        kind=entry.kind,
        parts=entry.parts,
        program=entry.program,
    )


class _Refused:
    """Stands for opening a checkpoint that could not be opened: raises the reason again."""

    def __init__(self, unsafe: bool, message: str) -> None:
        self.unsafe, self.message = unsafe, message

    def __call__(self) -> TensorMap:
        raise (UnsafeCheckpointError if self.unsafe else CheckpointError)(self.message)


def _add_failures(
    checkpoints: list[Checkpoint],
    failures: Sequence[tuple[Candidate, CheckpointError]],
    notices: list[str],
) -> list[Checkpoint]:
    """Add the unreadable files as checkpoints with an `error`, where their name tells a step."""
    taken = {checkpoint.step for checkpoint in checkpoints}
    result = list(checkpoints)
    for file, error in failures:
        step, source = file.stem.step, "file name"
        if step is None and not taken:
            step, source = 0, "unknown"
        if step is None or step in taken:
            notices.append(f"left out: {error}")
            continue
        taken.add(step)
        notices.append(str(error))
        refused = _Refused(isinstance(error, UnsafeCheckpointError), str(error))
        result.append(
            Checkpoint(
                step=step, step_source=source, path=file.path, load=refused, error=str(error)
            )
        )
    return sorted(result, key=lambda checkpoint: checkpoint.step)


def _format_name(opened: Opened) -> str:
    files = [item.file for item in opened.items] or [file for file, _ in opened.failures]
    names = Counter(file.format.name for file in files if file.format is not None)
    return names.most_common(1)[0][0] if names else "unknown"


def _config(items: Sequence[Item], beside: Sidecars, notices: list[str]) -> dict[str, Any]:
    """Join the settings found beside and inside; name contradictions."""
    config: dict[str, Any] = dict(beside.config)
    for item in items[-1:]:
        inside = item.contents.config
        if problem := contradiction(inside, config, item.file.path.name, "what lies beside it"):
            notices.append(problem)
        config |= inside
        told = {key: item.entry.metadata[key] for key in _OF_THE_RUN & item.entry.metadata.keys()}
        if problem := contradiction(config, told, "the run's settings", item.file.path.name):
            notices.append(problem)
    for item in items[-1:]:
        stored = item.entry.metadata.get("optimizer", {})
        for key in ("weight_decay", "lr"):
            said, used = config.get(key), stored.get(key)
            if isinstance(said, int | float) and isinstance(used, int | float) and said != used:
                notices.append(
                    f"the configuration says {key} {said}, the optimiser's state in "
                    f"{item.file.path.name} says {used}"
                )
    return config


def _guess_unit(beside: Sidecars, items: Sequence[Item]) -> str:
    """Return the unit that the run's own curves count in, if they agree on one."""
    units = {unit for curve in beside.curves for unit in curve.steps}
    units |= {unit for item in items for unit in item.entry.steps if unit}
    return units.pop() if len(units) == 1 else ""


def _tables(items: Sequence[Item], beside: Sidecars, unit: str, notices: list[str]) -> list[Table]:
    """Return all recorded losses and accuracies, the most trusted first."""
    rows = [(item.step or 0, standard_values(item.entry.metadata)) for item in items]
    steps = np.array([step for step, _ in rows], dtype=np.int64)
    tables: list[Table] = []
    columns = {}
    for name in NAMES:
        column = np.array([_float(values.get(name)) for _, values in rows], dtype=np.float64)
        if len(column) and not np.isnan(column).all():
            columns[name] = column
    if columns:
        tables.append((steps, columns, "stored with the checkpoints"))
    seen: set[int] = set()
    unplaced: list[str] = []
    for item in items:
        if id(item.contents) in seen:
            continue
        seen.add(id(item.contents))
        own = [other.step or 0 for other in items if other.contents is item.contents]
        for curve in item.contents.curves:
            placed, problems = place(
                curve.values, curve.steps, unit=unit, entries=own, source=item.file.path.name
            )
            tables += placed
            unplaced += problems
    if len(unplaced) > 1:  # a list that grows is in every checkpoint
        unplaced = [f"{unplaced[0]} ({len(unplaced) - 1} more list(s) inside are left out so)"]
    notices += unplaced
    for curve in beside.curves:
        placed, problems = place(
            curve.values, curve.steps, unit=unit, entries=steps.tolist(), source=curve.source
        )
        tables += placed
        notices += problems
    return tables


def _float(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _set_split(
    series: Series, items: Sequence[Item], beside: Sidecars, given: Split | None
) -> None:
    """Take the split that was given, lies inside or lies beside; else hint at `--split`."""
    inside = next((item.contents.split for item in items if item.contents.split), None)
    series.split = given or inside or beside.split or _split_of_dump(items)
    if series.split is not None:
        return
    seed = _first(series.config, ("seed", "random_seed", "data_seed"))
    keys = ("frac_train", "train_frac", "train_fraction", "frac", "training_fraction", "fraction")
    fraction = _first(series.config, keys)
    if seed is not None and fraction is not None and 0 < fraction < 1:
        series.notices.append(
            f"the train/held-out split is unknown; the configuration names the seed {int(seed)} "
            f"and the train fraction {fraction:g} but not the generator: try --split "
            f"python:seed={int(seed)},fraction={fraction:g} (or numpy:, torch:) and keep the one "
            "whose losses agree with the recorded ones"
        )


def _first(config: Mapping[str, Any], keys: Sequence[str]) -> float | None:
    for key in keys:
        value = config.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value
    return None


def _split_of_dump(items: Sequence[Item]) -> Split | None:
    for item in items:
        if item.entry.kind == "dump" and "train_mask" in item.entry.specs:
            mask = np.asarray(item.entry.load()["train_mask"]).astype(bool).ravel()
            return Split(kind="mask", value=mask, source=f"train_mask in {item.file.path.name}")
    return None


def _warn_of_copies(series: Series, items: Sequence[Item]) -> None:
    """Notice a series whose checkpoints are all one and the same network."""
    if len(items) < 2:
        return
    try:
        first = items[0].entry.load()
        # An honest series ends this at once: the second one's smallest tensor differs.
        if not all(same_content(first, item.entry.load()) for item in items[1:]):
            return
    except CheckpointError:
        return
    varies = series.history is not None and any(
        np.nanmax(column) > np.nanmin(column)
        for name, column in series.history.values.items()
        if name.endswith("loss")
    )
    series.notices.append(
        f"WARNING: all {len(items)} checkpoints hold bit-identical weights"
        + (" although the recorded losses vary" if varies else "")
        + "; the run saved one network under every step (state_dict() without a copy?), so no "
        "development can be seen in it"
    )
