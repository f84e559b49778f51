"""Following a folder that a training fills with checkpoints."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geomdiag.checkpoints.runs import Runs, open_runs
from geomdiag.checkpoints.series import Checkpoint, Series
from geomdiag.checkpoints.steps import read_stem
from geomdiag.errors import CheckpointError, StoreError
from geomdiag.live.known import Gone, Known, known, paths, removed

if TYPE_CHECKING:
    import xarray as xr

    from geomdiag.tasks.contract import Task

__all__ = ["Follower", "Look"]

#: Names under which writers keep a file until it is whole.
_TEMPORARY = (".tmp", ".temp", ".part", ".partial", ".incomplete", ".writing")

#: Size and time of a file's last change.
Stamp = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one look at the folder gave.

    Attributes
    ----------
    tree : xr.DataTree or None
        The result so far; None while there is no checkpoint.
    fresh : mapping of str to tuple of int
        Run to the steps that this look added.
    making : tuple of Path
        Files that cannot be opened, and changed so lately that they are probably being written.
    errors : mapping of str to str
        Run and step to what is wrong with a checkpoint, told for the first time.
    problem : str
        Why the folder could not be opened; empty where it could.
    changed : bool
        Whether checkpoints came, went or changed, or are being written.
    """

    tree: xr.DataTree | None
    fresh: Mapping[str, tuple[int, ...]]
    making: tuple[Path, ...]
    errors: Mapping[str, str]
    problem: str
    changed: bool


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
    >>> follower = Follower("runs/", "runs.geomdiag.zarr", "modadd")  # doctest: +SKIP
    >>> while not done():  # doctest: +SKIP
    ...     look = follower.look()
    ...     time.sleep(2)
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
        self.path, self.out = Path(path).expanduser(), Path(out)
        self.settle = settle
        self._task, self._options = task, options
        self._split = parse_split(split) if isinstance(split, str | Path) else split
        self._allow_pickle = allow_pickle
        self._passed_over = {Path(one).resolve() for one in [out, *ignore]}
        self._names = {one.name.lower() for one in self._passed_over}
        self._seen: dict[Path, tuple[Stamp, float]] = {}  # with the moment it was first seen so
        self._digests: dict[tuple[tuple[Path, Stamp], ...], str] = {}
        self._good: set[tuple[tuple[Path, Stamp], ...]] = set()  # read to the end
        self._last: tuple[object, ...] | None = None
        self._beside: dict[Path, Stamp] = {}  # files that are no checkpoints
        self._taken: set[Path] = set()
        self._told: dict[str, str] = {}
        self._making: tuple[Path, ...] = ()
        self._looked, self._problem = False, ""
        self._tree: xr.DataTree | None = None

    def look(self) -> Look:
        """Analyse what is new.

        Raises
        ------
        GeomdiagError
            If the task, a diagnostic or the result's place is wrong: what waiting does not mend.
        """
        moved = self._stat() or not self._looked
        self._looked = True
        settled = any(not self._young(path) for path in self._making)
        # settings, splits and curves beside the checkpoints count once nothing moves any more
        stale = not moved and self._last is not None and self._others() != self._beside
        if not moved and not settled and not stale:
            return self._unchanged()
        runs, making, self._problem = self._open()
        self._making = tuple(sorted(making))
        if runs is None:
            return replace(self._unchanged(), changed=moved and bool(making))
        state = tuple((name, self._stamps(one)) for name in runs for one in runs[name])
        if state == self._last and not stale:
            return replace(self._unchanged(), changed=moved and bool(making))
        # a trainer that writes the same files over again leaves nothing of what was analysed
        anew = self._last is not None and not {*state} & {*self._last}
        if anew and not any(_readable(one) for name in runs for one in runs[name]):
            self._problem = "the checkpoints were written anew, and none of them can be read"
            return replace(self._unchanged(), changed=moved)
        before = self._tree if self._tree is not None else self._stored()
        self._tree = self._analyse(runs, before, anew=anew)
        self._last = state
        self._taken = {path for name in runs for one in runs[name] for path in paths(one)}
        self._beside = self._others()
        return Look(
            tree=self._tree,
            fresh=_fresh(before, self._tree),
            making=self._making,
            errors=self._errors(runs, self._tree),
            problem="",
            changed=True,
        )

    def _unchanged(self) -> Look:
        return Look(
            tree=self._tree,
            fresh={},
            making=self._making,
            errors={},
            problem=self._problem,
            changed=False,
        )

    # --- files ---------------------------------------------------------------------------------

    def _stat(self) -> bool:
        """Note size and time of every file; return whether any differs from the last look."""
        now = time.monotonic()
        seen: dict[Path, tuple[Stamp, float]] = {}
        moved = False
        for path in self._files():
            try:
                found = path.stat()
            except OSError:
                continue  # gone since it was listed
            stamp = (found.st_size, found.st_mtime_ns)
            known = self._seen.get(path)
            if known is not None and known[0] == stamp:
                seen[path] = known
                continue
            moved = True
            # what lies there from the start is as old as it says; later, our own clock counts
            age = 0.0 if self._looked else max(0.0, time.time() - found.st_mtime)
            seen[path] = (stamp, now - age)
        moved = moved or len(seen) != len(self._seen)
        self._seen = seen
        return moved

    def _files(self) -> list[Path]:
        found = [self.path] if self.path.is_file() else []
        for folder, folders, names in os.walk(self.path):
            folders[:] = [one for one in folders if not one.startswith(".")]
            folders[:] = [one for one in folders if not one.endswith(".zarr")]
            found += [Path(folder, name) for name in names]
        return [path for path in found if not self._ignored(path)]

    def _ignored(self, path: Path) -> bool:
        name = path.name.lower()
        return name.endswith(_TEMPORARY) or (
            name in self._names and path.resolve() in self._passed_over
        )

    def _young(self, path: Path) -> bool:
        """Return whether a file changed so lately that it may not be whole."""
        known = self._seen.get(path)
        return known is None or time.monotonic() - known[1] < self.settle

    def _files_of(self, checkpoint: Checkpoint) -> set[Path]:
        """Return the files that make up a checkpoint."""
        own = paths(checkpoint)
        folder = own[0].parent
        stem = read_stem(folder.name)
        if folder != self.path and stem.step is not None and not stem.base:
            return {*own, *(path for path in self._seen if folder in path.parents)}
        return set(own)

    def _others(self) -> dict[Path, Stamp]:
        """Return size and time of the files that are no checkpoints."""
        return {path: stamp for path, (stamp, _) in self._seen.items() if path not in self._taken}

    def _stamps(self, checkpoint: Checkpoint) -> tuple[tuple[Path, Stamp], ...]:
        return tuple((path, self._stamp(path)) for path in paths(checkpoint))

    def _stamp(self, path: Path) -> Stamp:
        return self._seen[path][0] if path in self._seen else (0, 0)

    # --- opening -------------------------------------------------------------------------------

    def _open(self) -> tuple[Runs | None, set[Path], str]:
        """Open the runs without what is being written; return that too, and what is wrong."""
        making: set[Path] = set()

        def passed_over(path: Any) -> bool:
            return path in making or self._ignored(path)

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
                young = {path for path in self._seen if self._young(path)} - making
                if not young:
                    return None, making, str(error)
                making |= young
                continue
            torn: set[Path] = set()
            for one in (one for name in runs for one in runs[name]):
                files = self._files_of(one) - making
                if any(self._young(path) for path in files) and not self._whole(one, files):
                    torn |= files
            if not torn:
                return runs, making, ""
            making |= torn

    def _whole(self, checkpoint: Checkpoint, files: set[Path]) -> bool:
        """Return whether a checkpoint can be read to its end; what was found so is remembered."""
        key = tuple((path, self._stamp(path)) for path in sorted(files))
        if key in self._good:
            return True
        whole = _readable(checkpoint)
        if whole and all(path in self._seen for path in files):
            self._good.add(key)
        return whole

    # --- analysis ------------------------------------------------------------------------------

    def _stored(self) -> xr.DataTree | None:
        from geomdiag import store

        try:
            return store.load(self.out)
        except StoreError:
            return None

    def _analyse(self, runs: Runs, before: xr.DataTree | None, *, anew: bool) -> xr.DataTree:
        from geomdiag.analysis import analyze_into

        checkpoints = {name: self._checkpoints(runs[name], before) for name in runs}
        series = {name: replace(runs[name], checkpoints=checkpoints[name]) for name in runs}
        gone = any(isinstance(one.load, Gone) for run in checkpoints.values() for one in run)
        tree = analyze_into(
            self.out,
            Runs(self.path, series, runs.notices),
            self._task,
            split=self._split,
            force=anew and not gone,
            keep=True,
            **self._options,
        )
        for one in (one for run in checkpoints.values() for one in run):
            if one.memory and all(path in self._seen for path in paths(one)):
                self._digests[self._stamps(one)] = one.memory["digest"]
        return tree

    def _checkpoints(self, series: Series, before: xr.DataTree | None) -> list[Known]:
        """Return a run's checkpoints, with their digests where these are known already.

        Those that an earlier result has and the folder has no more are among them: their rows
        are taken from that result.
        """
        told: dict[int, str] = {}
        for node in before.children.values() if before is not None else ():
            chosen = "selection" in json.loads(str(node.attrs.get("configuration", "{}")))
            if node.attrs.get("run") != series.name or chosen:
                continue  # digests of chosen rows cannot be told without the file
            rows = _told(node, "digest", "status")
            told |= {step: digest for step, digest, status in rows if status != "failed" and digest}
        found: list[Known] = []
        for one in series:
            if one.error and one.step in told and not one.path.exists():
                continue  # removed between listing and opening
            digest = "" if one.member else self._digests.get(self._stamps(one), "")
            found.append(known(one, digest, told.pop(one.step, "")))
        found += [
            removed(series.path / f"step {step}", step, digest) for step, digest in told.items()
        ]
        return sorted(found, key=lambda one: one.step)

    def _errors(self, runs: Runs, tree: xr.DataTree) -> dict[str, str]:
        """Return what is wrong with checkpoints and was not told before."""
        files = {(name, one.step): self._files_of(one) for name in runs for one in runs[name]}
        found: dict[str, str] = {}
        for node in tree.children.values():
            name = str(node.attrs.get("run", ""))
            for step, status, error in _told(node, "status", "error"):
                if status != "ok" and not self._changed_since(files.get((name, step), set())):
                    found[f"{name} step {step}"] = f"{status}: {error}"
        new = {key: text for key, text in found.items() if self._told.get(key) != text}
        self._told = found
        return new

    def _changed_since(self, files: set[Path]) -> bool:
        """Return whether files were written while they were being analysed."""
        for path in files:
            try:
                now = path.stat()
            except OSError:
                return True
            known = self._seen.get(path)
            if known is not None and known[0] != (now.st_size, now.st_mtime_ns):
                return True
        return False


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


def _told(node: xr.DataTree, *names: str) -> Iterator[tuple[Any, ...]]:
    """Yield the step of each row of a run, and its values of some variables."""
    dataset = node.to_dataset()
    if "step" in dataset.coords and all(name in dataset for name in names):
        yield from zip(*(dataset[name].values.tolist() for name in ("step", *names)), strict=True)


def _fresh(before: xr.DataTree | None, now: xr.DataTree) -> dict[str, tuple[int, ...]]:
    """Return the steps of each run that an earlier result has not, or of other checkpoints."""

    def rows(tree: xr.DataTree) -> dict[str, set[tuple[int, str]]]:
        return {
            str(node.attrs.get("run", name)): set(_told(node, "digest"))
            for name, node in tree.children.items()
        }

    old = {} if before is None else rows(before)
    new = {name: own - old.get(name, set()) for name, own in rows(now).items()}
    return {name: tuple(sorted(step for step, _ in own)) for name, own in new.items() if own}
