"""An analysis whose result is kept on disk, and extended by the next one."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geomdiag import store
from geomdiag._lock import Lock
from geomdiag.analysis.previous import analysed, first_error, no_longer, related, with_runs_of
from geomdiag.analysis.run import carry_out, work_of
from geomdiag.errors import StoreError

if TYPE_CHECKING:
    import xarray as xr

    from geomdiag.analysis.plan import Progress
    from geomdiag.analysis.result import Job
    from geomdiag.checkpoints.runs import Runs
    from geomdiag.checkpoints.series import Series
    from geomdiag.tasks.contract import Task

__all__ = ["analyze_into", "extend"]


def analyze_into(
    path: str | os.PathLike[str],
    runs: str | os.PathLike[str] | Runs | Series | Iterable[Any],
    task: str | Task | None = None,
    *,
    format: store.Format = "zarr",
    force: bool = False,
    keep: bool = False,
    finish: Callable[[xr.DataTree], xr.DataTree] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> xr.DataTree:
    """Analyse and keep the result at `path`, doing only what is not done there yet.

    Parameters
    ----------
    path : path
        Of the result; an earlier one is extended and replaced in one step.
    runs, task
        As in `analyze`.
    format : {"zarr", "netcdf"}
        Of the result.
    force : bool
        Compute every step anew.
    keep : bool
        Leave runs in the result that it has and that are not among `runs`.
    finish : callable, optional
        Takes the result and returns what is kept of it, such as
        `geomdiag.dynamics.criterion.apply_criterion` with thresholds of one's own.
    workers, progress
        As in `analyze`.
    **options
        Further arguments of `analyze`.

    Returns
    -------
    xr.DataTree

    Raises
    ------
    StoreError
        If the result cannot be written, or if the one at `path` is of other checkpoints and
        `force` is not given, or if another process writes there; this is told before the work
        begins. Also if no checkpoint can be analysed where an earlier result has some: it stays
        as it is.
    """
    target = store.check_target(path)
    with Lock(target, "geomdiag analyze"):
        return extend(
            target,
            runs,
            task,
            store.Journal.beside(target),
            format=format,
            force=force,
            keep=keep,
            finish=finish,
            workers=workers,
            progress=progress,
            **options,
        )


def extend(
    path: Path,
    runs: Any,
    task: str | Task | None,
    book: store.Journal,
    *,
    format: store.Format = "zarr",
    force: bool = False,
    keep: bool = False,
    finish: Callable[[xr.DataTree], xr.DataTree] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    compare: bool = True,
    choose_rows: Callable[[Sequence[Job]], None] | None = None,
    **options: Any,
) -> xr.DataTree:
    """Do as `analyze_into` for a caller that has the lock and the journal.

    `compare`, `choose_rows`: as in `geomdiag.analysis.run.carry_out`.
    """
    from geomdiag.checkpoints import open_runs

    target = store.check_target(path)
    if isinstance(runs, str | os.PathLike):
        runs = open_runs(os.fspath(runs))
    earlier = None
    if keep or not force:
        # none there, or damaged: then all is computed
        with suppress(StoreError):
            earlier = store.load(target)
    previous = None if force else earlier
    work = work_of(runs, task, **options)
    if previous is not None and not related(previous, work.jobs):
        held = ", ".join(str(node.attrs.get("run", "")) for node in previous.children.values())
        raise StoreError(
            f"{target} holds the result of other checkpoints (of {held}), and none of these. "
            "Choose another output path, or --force to replace it."
        )
    if force:
        book.clear()
    book.open()
    try:
        tree = carry_out(
            work, workers, previous, progress, book, compare=compare, choose_rows=choose_rows
        )
        if previous is not None and analysed(previous) and not analysed(tree):
            raise StoreError(
                f"none of the checkpoints could be analysed ({first_error(tree)}), and {target} "
                "holds an earlier result in which they were: it is left as it is. Was --model or "
                "another option forgotten? Choose another output path, or --force to replace it."
            )
        if keep and earlier is not None:
            tree = with_runs_of(earlier, tree)
        later = {v for one in work.chosen if one.scope == "run" for v in one.variables}
        lost = "" if previous is None else no_longer(previous, tree, set() if compare else later)
        if lost:
            warnings.warn(
                f"{target.name} held an earlier result, which this one replaces; no longer in "
                f"it: {lost}. Write to another path to keep both.",
                stacklevel=3,
            )
        if finish is not None:
            tree = finish(tree)
        store.save(tree, target, format)
    except BaseException:
        if not book.keys():
            book.clear()  # nothing was finished: leave nothing behind
        raise
    book.clear()
    return tree
