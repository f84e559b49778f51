"""Rows of an earlier training of a run, which its result must not mix with those of a later one."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from geomdiag.analysis.assembly import Row, assemble, rows_of
from geomdiag.analysis.gone import Gone
from geomdiag.analysis.run import entry_of
from geomdiag.errors import StoreError
from geomdiag.live.looks import entries
from geomdiag.live.place import set_aside

if TYPE_CHECKING:
    from geomdiag.analysis.result import Job
    from geomdiag.checkpoints.series import Checkpoint
    from geomdiag.store import Journal

__all__ = ["Earlier"]

#: By these words notices are known again.
_LEFT_OUT = "of an earlier training and left out"
#: Attribute of a run: what of an earlier training still lies there.
_STALE = "earlier_training"


@dataclass(frozen=True, eq=False, kw_only=True)
class _Before:
    """What was known of a run before a look.

    Attributes
    ----------
    node : xr.DataTree or None
        The run in the result.
    rows : mapping of int to str
        Step to digest of its rows; empty text where the checkpoint could not be read.
    good : mapping of int to str
        Those that did not fail.
    left : mapping of int to str
        Likewise of the journal: measured after the result was written.
    stale : mapping of int to str
        Likewise of checkpoints of an earlier training that still lay there.
    since, kept
        The step at which that was found, and where the rows are kept as well.
    """

    node: xr.DataTree | None = None
    rows: Mapping[int, str] = field(default_factory=dict)
    good: Mapping[int, str] = field(default_factory=dict)
    left: Mapping[int, str] = field(default_factory=dict)
    stale: Mapping[int, str] = field(default_factory=dict)
    since: int = 0
    kept: str = ""


@dataclass(frozen=True, kw_only=True)
class _Found:
    """Steps of rows to be left out, and of files that would be if they were gone."""

    since: int
    ended: Sequence[int]
    stale: Mapping[int, str]


class Earlier:
    """Tells rows of an earlier training from those of the present one.

    Rows whose checkpoints were removed stay in the result. A checkpoint that is new, or has other
    weights than its step had before, ends those of them whose steps are later: a training passes
    its steps in order. Checkpoints that still lie there are left to the folder, which says so;
    those that are older than the new one do not outlive their files.

    Parameters
    ----------
    path : Path
        Of the result.
    tree : xr.DataTree or None
        The result before the look.
    left : mapping of str to mapping of int to str
        Run to the steps that the journal has beside it, with their digests.
    book : Journal
        The journal.
    written : callable
        Returns when a checkpoint's files were last changed.
    """

    def __init__(
        self,
        path: Path,
        tree: xr.DataTree | None,
        left: Mapping[str, Mapping[int, str]],
        book: Journal,
        written: Callable[[Checkpoint], int],
    ) -> None:
        self._path, self._tree, self._book, self._written = path, tree, book, written
        self._runs: dict[str, _Before] = {}
        for node in tree.children.values() if tree is not None else ():
            run = str(node.attrs.get("run", ""))
            rows = list(entries(node, "digest", "status"))
            stale = json.loads(str(node.attrs.get(_STALE, "{}")))
            self._runs[run] = _Before(
                node=node,
                rows={step: digest for step, digest, _ in rows},
                good={step: digest for step, digest, status in rows if status != "failed"},
                left=left.get(run, {}),
                stale={int(step): digest for step, digest in stale.get("steps", {}).items()},
                since=stale.get("since", 0),
                kept=stale.get("kept", ""),
            )
        for run in left.keys() - self._runs.keys():
            self._runs[run] = _Before(left=left[run])
        self._marks: dict[str, str] = {}

    def told(self, run: str) -> dict[int, str]:
        """Return the digests of a run's steps that were measured before, by step."""
        before = self._before(run)
        return {**{step: one for step, one in before.good.items() if one}, **before.left}

    def leave_out(self, jobs: Sequence[Job]) -> None:
        """Take rows of earlier trainings out of an analysis, and say so.

        The result with them is kept beside the new one.

        Raises
        ------
        StoreError
            If that cannot be written.
        """
        found = {job.series.name: self._find(job) for job in jobs}
        lost = {run for run, one in found.items() if self._lost(run, one)}
        kept = self._keep(lost) if lost else ""
        for job in jobs:
            run = job.series.name
            before, one = self._before(run), found[run]
            where = kept if run in lost else before.kept
            self._repeat(job, before)
            if one.ended:
                text = _words(one, where)
                warnings.warn(f"{run}: {text}", RuntimeWarning, stacklevel=2)
                job.notices.append(text)
                self._drop(job, one.ended)
            if one.stale:
                # what came since the rows were kept is in no file of its own yet
                whole = run in lost or one.stale.items() <= before.stale.items()
                mark = {"since": one.since, "kept": where if whole else "", "steps": one.stale}
                self._marks[run] = json.dumps(mark)

    def mark(self, tree: xr.DataTree) -> None:
        """Note in a result which of its rows stand for files of an earlier training."""
        for node in tree.children.values():
            if text := self._marks.get(str(node.attrs.get("run", ""))):
                node.attrs[_STALE] = text

    def _before(self, run: str) -> _Before:
        return self._runs.get(run, _Before())

    # --- finding -------------------------------------------------------------------------------

    def _find(self, job: Job) -> _Found:
        before = self._before(job.series.name)
        told = {**before.rows, **before.left}
        rows = {row.step: row for row in job.rows if row is not None and row.status != "failed"}
        # the journal's rows came after the result's, and what was measured now after both
        then, now = math.inf, math.inf
        for one in job.series:
            row = rows.get(one.step)
            if row is None or (one.step_source == "unknown" and not _gone(one)):
                continue
            if self._contradicts(job, row, told):
                now = min(now, row.step)
            elif row.digest == before.left.get(row.step) and self._contradicts(
                job, row, before.rows
            ):
                then = min(then, row.step)
        first = min(now, then)
        ended: list[int] = []
        stale: dict[int, str] = {}
        news = {one.step: self._written(one) for one in job.series if not _gone(one)}
        for one in job.series:
            row = rows.get(one.step)
            digest = row.digest if row is not None else told.get(one.step, "")
            same = digest == told.get(one.step)
            passed = one.step > (then if one.step not in before.left else math.inf)
            passed = same and (passed or one.step > now)
            was = same and before.stale.get(one.step) == digest
            if _gone(one):
                if passed or was:
                    ended.append(one.step)
            elif row is not None and (
                was or (passed and int(first) in news and news[one.step] < news[int(first)])
            ):
                stale[one.step] = digest
        since = before.since if math.isinf(first) else int(first)
        return _Found(since=since, ended=ended, stale=stale)

    def _contradicts(self, job: Job, row: Row, known: Mapping[int, str]) -> bool:
        """Return whether a row is of another training than the known ones from its step on."""
        if row.digest in known.values():
            return False  # the same file, be it under another step
        if row.step not in known:
            return True
        before = self._before(job.series.name)
        old = before.node.attrs.get("configuration", "{}") if before.node is not None else "{}"
        if not known[row.step] or _selection(str(old)) != _selection(job.key):
            return False  # it could not be read, or digests are of other rows of the file
        # step_20.pt and best.pt may hold the same weights in other bytes
        return not self._same_numbers(job, row, known[row.step])

    def _same_numbers(self, job: Job, row: Row, digest: str) -> bool:
        """Return whether a row's numbers are those of an earlier row of its step."""
        entry = self._book.get(entry_of(job, row.step, digest))
        before = self._before(job.series.name)
        earlier = Row.unpack(*entry) if entry is not None else None
        if earlier is None and before.node is not None:
            wanted = {v for a in job.plan.analyzers if a.scope == "step" for v in a.variables}
            dataset = before.node.to_dataset()
            earlier = rows_of(dataset, frozenset(wanted)).get((row.step, digest))
        if earlier is None or not row.values:
            return False
        both = assemble([row, earlier], frozenset()).drop_vars(["digest", "status", "error"])
        return bool(both.isel(step=0, drop=True).equals(both.isel(step=1, drop=True)))

    # --- leaving out ---------------------------------------------------------------------------

    def _lost(self, run: str, found: _Found) -> bool:
        """Return whether rows of the result would be nowhere any more."""
        before = self._before(run)
        return any(
            step in before.good and not (before.kept and step in before.stale)
            for step in found.ended
        )

    def _keep(self, runs: set[str]) -> str:
        """Write these runs as they were beside the result; return the name."""
        if self._tree is None:
            return ""
        nodes = {
            name: node.to_dataset()
            for name, node in self._tree.children.items()
            if node.attrs.get("run") in runs
        }
        tree = xr.DataTree.from_dict({"/": self._tree.to_dataset(), **nodes})
        return set_aside(self._path, tree, "earlier").name

    def _repeat(self, job: Job, before: _Before) -> None:
        """Say again what was said when rows were left out: the result lacks them still."""
        if before.node is not None:
            for text in str(before.node.attrs.get("notices", "")).splitlines():
                if _LEFT_OUT in text and text not in job.notices:
                    job.notices.append(text)

    def _drop(self, job: Job, steps: Sequence[int]) -> None:
        for one in job.series:
            if one.step in steps and isinstance(one.load, Gone):
                with suppress(StoreError):  # the row is in no result, whatever becomes of this
                    self._book.remove(entry_of(job, one.step, one.load.digest))
        here = [number for number, one in enumerate(job.series) if one.step not in steps]
        job.series = replace(job.series, checkpoints=[job.series[number] for number in here])
        job.rows = [job.rows[number] for number in here]


def _gone(checkpoint: Checkpoint) -> bool:
    return isinstance(checkpoint.load, Gone)


def _selection(configuration: str) -> Any:
    return json.loads(configuration).get("selection")


def _words(found: _Found, kept: str) -> str:
    first, last, many = found.ended[0], found.ended[-1], len(found.ended)
    rows = f"the row of step {first} is" if many == 1 else f"{many} rows from step {first} to "
    rows += "" if many == 1 else f"{last} are"
    text = (
        f"{rows} {_LEFT_OUT}, as the checkpoints are gone: the run has been trained again, and "
        f"step {found.since} came after them"
    )
    return text + (f"; the result with them is kept as {kept}" if kept else "")
