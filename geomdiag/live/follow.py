"""Following a folder that a training fills with checkpoints."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from geomdiag._lock import Lock
from geomdiag.analysis.gone import Gone
from geomdiag.analysis.run import LEFT
from geomdiag.checkpoints.runs import Runs, open_runs
from geomdiag.checkpoints.series import Checkpoint
from geomdiag.checkpoints.steps import read_stem
from geomdiag.errors import CheckpointError, StoreError
from geomdiag.live.earlier import Earlier
from geomdiag.live.files import Files, Stamp
from geomdiag.live.known import paths, with_removed
from geomdiag.live.looks import Look, entries, fresh_rows, reasons
from geomdiag.live.retry import Retry
from geomdiag.live.spare import SpareJournal

if TYPE_CHECKING:
    import xarray as xr

    from geomdiag.tasks.contract import Task

__all__ = ["Follower", "Look"]

#: Share of the time that comparing all checkpoints with one another may take.
COMPARING = 0.25

_MISSED = (
    "removed before it could be measured; more checkpoints kept, or shorter intervals between "
    "two looks, leave time for it"
)


class Follower:
    """Analyses the checkpoints of a folder as they come, into one result.

    The result is the one that `geomdiag.analyze_into` makes of the same checkpoints. Those that
    a trainer removes again stay in it.

    Parameters
    ----------
    path : path
        Folder of runs; it need not be there yet.
    out : path
        The result, extended if it is there.
    task : str or Task, optional
        As in `geomdiag.analyze`.
    settle : float
        Seconds after its last change from which a file that cannot be opened counts as broken;
        until then it is waited for.
    split, allow_pickle
        As in `geomdiag.open_runs`.
    ignore : iterable of path
        Files in the folder that are passed over.
    **options
        Further arguments of `geomdiag.analyze_into`: ``analyzers``, ``model``, ``workers``, ...

    Examples
    --------
    >>> with Follower("runs/", "runs.geomdiag.zarr", "modadd") as follower:  # doctest: +SKIP
    ...     while not done():
    ...         look = follower.look()
    ...         time.sleep(2)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        out: str | os.PathLike[str],
        task: str | Task | None = None,
        *,
        settle: float = 10.0,
        split: Any = None,
        allow_pickle: bool = False,
        ignore: Iterable[str | os.PathLike[str]] = (),
        **options: Any,
    ) -> None:
        from geomdiag.checkpoints import parse_split

        if re.match(r"[a-z][\w+.-]+:/", os.fspath(path)):  # pathlib leaves one slash of "s3://"
            raise CheckpointError(
                f"{os.fspath(path)}: only a folder of this machine can be followed. Mount it, or "
                "run `geomdiag analyze` from time to time: it does only what is new."
            )
        self.path, self.out = Path(path).expanduser(), Path(out).resolve()
        self._task, self._options = task, options
        self._progress, self._finish = options.pop("progress", None), options.pop("finish", None)
        self._split = parse_split(split) if isinstance(split, str | Path) else split
        self._allow_pickle = allow_pickle
        self._lock = Lock(self.out, "geomdiag watch")
        self._book = SpareJournal.beside(self.out)
        self._files = Files(self.path, settle, [out, self._lock.path, *ignore])
        self._digests: dict[tuple[tuple[Path, Stamp], ...], str] = {}
        self._good: set[tuple[tuple[Path, Stamp], ...]] = set()  # read to the end
        self._last: tuple[object, ...] | None = None
        self._beside: dict[Path, Stamp] = {}  # files that are no checkpoints
        self._taken: set[Path] = set()
        self._told: dict[str, str] = {}
        self._making: tuple[Path, ...] = ()
        self._problem, self._retry = "", Retry()
        self._compared, self._behind = 0.0, False  # when it is affordable to compare checkpoints
        self._missed = False  # whether the last analysis could not even begin
        self._tree: xr.DataTree | None = None

    def look(self, *, complete: bool = False) -> Look:
        """Analyse what is new.

        What compares all checkpoints with one another is computed anew with every one that comes,
        and the dearer the more there are: it may take a quarter of the time that passes.

        Parameters
        ----------
        complete : bool
            Compute that too, however dear it is.

        Raises
        ------
        GeomdiagError
            If the task, a diagnostic or the result's place is wrong, or another process writes
            there: what waiting does not mend.
        """
        self._lock.take()
        moved = self._files.look()
        settled = any(not self._files.young(path) for path in self._making)
        # settings, splits and curves beside the checkpoints count once nothing moves any more
        beside = self._files.without(self._taken)
        stale = not moved and self._last is not None and beside != self._beside
        again = bool(self._retry.problem) and self._retry.due()
        compare = complete or time.monotonic() >= self._compared
        catch_up = (self._behind and compare) or (again and self._missed)
        if not moved and not settled and not stale and not catch_up:
            if again:
                with self._retry.attempt():
                    self._write()
            return self._unchanged()
        runs, making, self._problem = self._open()
        self._making = tuple(sorted(making))
        if runs is None:
            return replace(self._unchanged(), changed=moved and bool(making))
        state = tuple((name, self._stamps(one)) for name in runs for one in runs[name])
        if state == self._last and not stale and not catch_up:
            return replace(self._unchanged(), changed=moved and bool(making))
        # a trainer that writes the same files over again leaves nothing of what was analysed
        anew = self._last is not None and not {*state} & {*self._last}
        if anew and not any(_readable(one) for name in runs for one in runs[name]):
            self._problem = "the checkpoints were written anew, and none of them can be read"
            return replace(self._unchanged(), changed=moved)
        before = self._tree if self._tree is not None else self._stored()
        made = self._analyse(runs, before, anew=anew, compare=compare)
        self._missed = made is None
        if made is None:
            return self._unchanged()
        changed = state != self._last or stale
        self._tree, self._last = made, state
        here = {
            runs[name].name for name in runs
        }  # of runs that are gone nothing can be made up for
        self._behind = any(
            LEFT in reasons(node) for node in made.children.values() if node.attrs["run"] in here
        )
        self._taken = {path for name in runs for one in runs[name] for path in paths(one)}
        self._beside = self._files.without(self._taken)
        return Look(
            tree=self._tree,
            fresh=fresh_rows(before, self._tree),
            making=self._making,
            errors=self._errors(runs, self._tree),
            problem="",
            changed=changed,
            unsaved=self._retry.problem,
            behind=self._behind,
        )

    def close(self) -> None:
        """Write what could not be written yet, and let others write there.

        Raises
        ------
        StoreError
            If it still cannot be written.
        """
        try:
            if self._retry.problem:
                self._write()
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self) -> None:
        """Write the result as it stands."""
        from geomdiag import store

        if self._tree is None or self._missed:
            raise StoreError(self._retry.problem)  # there is more to it than writing
        store.save(self._tree, self.out, self._options.get("format", "zarr"))
        self._book.clear()

    def _unchanged(self) -> Look:
        return Look(
            tree=self._tree,
            fresh={},
            making=self._making,
            errors={},
            problem=self._problem,
            changed=False,
            unsaved=self._retry.problem,
            behind=self._behind,
        )

    def _files_of(self, checkpoint: Checkpoint) -> set[Path]:
        """Return the files that make up a checkpoint."""
        own = paths(checkpoint)
        folder = own[0].parent
        stem = read_stem(folder.name)
        if folder != self.path and stem.step is not None and not stem.base:
            return {*own, *self._files.under(folder)}
        return set(own)

    def _stamps(self, checkpoint: Checkpoint) -> tuple[tuple[Path, Stamp], ...]:
        return tuple((path, self._files.stamp(path)) for path in paths(checkpoint))

    # --- opening -------------------------------------------------------------------------------

    def _open(self) -> tuple[Runs | None, set[Path], str]:
        """Open the runs without what is being written; return that too, and what is wrong."""
        making: set[Path] = set()

        def passed_over(path: Any) -> bool:
            return path in making or self._files.ignored(path)

        while True:
            try:
                runs = open_runs(
                    self.path,
                    split=self._split,
                    allow_pickle=self._allow_pickle,
                    ignore=passed_over,
                )
            except (CheckpointError, OSError) as error:
                # which file it is for cannot be told: try without any that may not be whole
                young = self._files.all_young() - making
                if not young:
                    return None, making, str(error)
                making |= young
                continue
            torn: set[Path] = set()
            for one in (one for name in runs for one in runs[name]):
                files = self._files_of(one) - making
                if any(self._files.young(path) for path in files) and not self._whole(one, files):
                    torn |= files
            if not torn:
                return runs, making, ""
            making |= torn

    def _whole(self, checkpoint: Checkpoint, files: set[Path]) -> bool:
        """Return whether a checkpoint can be read to its end; what was found so is remembered."""
        key = tuple((path, self._files.stamp(path)) for path in sorted(files))
        if key in self._good:
            return True
        whole = _readable(checkpoint)
        if whole and all(path in self._files for path in files):
            self._good.add(key)
        return whole

    # --- analysis ------------------------------------------------------------------------------

    def _stored(self) -> xr.DataTree | None:
        from geomdiag import store

        try:
            return store.load(self.out)
        except StoreError:
            return None

    def _analyse(
        self, runs: Runs, before: xr.DataTree | None, *, anew: bool, compare: bool
    ) -> xr.DataTree | None:
        """Return the result, written if that is possible; None where it could not even begin."""
        from geomdiag.analysis.into import extend

        # what a look that was cut short left, of checkpoints that may be gone since
        left = self._book.steps() if self._tree is None else {}
        earlier = Earlier(self.out, before, left, self._book, self._written)
        checkpoints = {
            name: with_removed(runs[name], earlier.told(runs[name].name), self._digest_of)
            for name in runs
        }
        series = {name: replace(runs[name], checkpoints=checkpoints[name]) for name in runs}
        gone = any(isinstance(one.load, Gone) for run in checkpoints.values() for one in run)
        made: list[xr.DataTree] = []
        measured = [time.monotonic()]

        def count(*done: Any) -> None:
            measured.append(time.monotonic())
            if self._progress is not None:
                self._progress(*done)

        def remember(tree: xr.DataTree) -> xr.DataTree:
            made.append(tree if self._finish is None else self._finish(tree))
            earlier.mark(made[0])
            if compare:
                now = time.monotonic()
                self._compared = now + (now - measured[-1]) * (1 / COMPARING - 1)
            return made[0]

        self._book.patient = self._retry.worked
        with self._retry.attempt():
            extend(
                self.out,
                Runs(self.path, series, runs.notices),
                self._task,
                self._book,
                split=self._split,
                force=anew and not gone,
                keep=True,
                compare=compare,
                choose_rows=earlier.leave_out,
                progress=count,
                finish=remember,
                **self._options,
            )
        for one in (one for run in checkpoints.values() for one in run):
            if one.memory and all(path in self._files for path in paths(one)):
                self._digests[self._stamps(one)] = one.memory["digest"]
        return made[0] if made else None

    def _digest_of(self, checkpoint: Checkpoint) -> str:
        """Return a checkpoint's digest if it is known already, else an empty string."""
        return "" if checkpoint.member else self._digests.get(self._stamps(checkpoint), "")

    def _written(self, checkpoint: Checkpoint) -> int:
        """Return when the last file of a checkpoint was changed."""
        return max(changed for _, (_, changed) in self._stamps(checkpoint))

    # --- what is told --------------------------------------------------------------------------

    def _errors(self, runs: Runs, tree: xr.DataTree) -> dict[str, str]:
        """Return what is wrong with checkpoints and was not told before."""
        files = {(name, one.step): self._files_of(one) for name in runs for one in runs[name]}
        found: dict[str, str] = {}
        for node in tree.children.values():
            name = str(node.attrs.get("run", ""))
            for step, status, error in entries(node, "status", "error"):
                if status == "ok":
                    continue
                own = files.get((name, step), set())
                if not self._files.changed_since(own):
                    found[f"{name} step {step}"] = f"{status}: {error}"
                elif own and not any(path.exists() for path in own):
                    found[f"{name} step {step}"] = _MISSED
        new = {key: text for key, text in found.items() if self._told.get(key) != text}
        self._told = found
        return new


def _readable(checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint can be read to its end."""
    if checkpoint.error:
        return False
    try:
        tensors = replace(checkpoint).tensors
        for name in tensors:
            tensors[name]
    except Exception:  # whatever a reader makes of half a file
        return False
    return True
