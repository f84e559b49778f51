"""A run whose checkpoints come one after the other, and need not be kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import xarray as xr
from numpy.typing import NDArray

from geomdiag.analysis.assembly import Row, rows_of
from geomdiag.analysis.crew import one_thread
from geomdiag.analysis.plan import choose, node_names
from geomdiag.analysis.result import add_coordinates, root_attrs, run_dataset
from geomdiag.analysis.run import entry_of, job_of
from geomdiag.analysis.steps import measure
from geomdiag.checkpoints.series import History, Series
from geomdiag.errors import StoreError, TaskError

if TYPE_CHECKING:
    from geomdiag.analyzers.contract import Analyzer
    from geomdiag.checkpoints.series import Checkpoint
    from geomdiag.store import Journal
    from geomdiag.tasks.contract import Task

__all__ = ["GrowingRun"]

#: Why diagnostics that compare checkpoints are not there.
_NOT_KEPT = (
    "it compares the run's checkpoints with one another, and none is kept while the run is "
    "followed in memory; `geomdiag analyze` computes it from saved ones"
)


class GrowingRun:
    """One run's result, made checkpoint by checkpoint as `geomdiag.analyze` makes it of all.

    Parameters
    ----------
    series : Series
        What is known of the run: its name, configuration and split. Its first checkpoint tells
        what the task leaves unsaid; checkpoints are measured when they are added, not before.
    task : str or Task
        As in `geomdiag.analyze`.
    analyzers : sequence of str or Analyzer, optional
        As in `geomdiag.analyze`.
    model : str or callable, optional
        As in `geomdiag.analyze`.
    journal : Journal, optional
        Where measured steps are kept until the caller has written the result.

    Raises
    ------
    TaskError
        If the task does not fit the first checkpoint.
    SplitError, UnknownNameError
        If the split or an analyzer was named wrongly.
    """

    def __init__(
        self,
        series: Series,
        task: str | Task,
        *,
        analyzers: Sequence[str | Analyzer] | None = None,
        model: Any = None,
        journal: Journal | None = None,
    ) -> None:
        self._asked, self._model = task, model
        self._chosen = choose(analyzers)
        (node,) = node_names([series.name])
        job = job_of(series, node, task, self._chosen, model, series.split is not None)
        if job.plan.task is None:
            raise TaskError(job.plan.problem)
        self._job = replace(job, series=replace(series, checkpoints=[]), rows=[])
        for one in self._chosen:
            if one.scope == "run" and not one.applies(job.plan.task):
                self._job.reasons[one.name] = _NOT_KEPT
        self._rows: dict[int, Row] = {}
        self._journal = journal

    @property
    def task(self) -> Task:
        """What was to be learnt."""
        task = self._job.plan.task
        if task is None:  # the constructor refused that
            raise TaskError(self._job.plan.problem)
        return task

    @property
    def static(self) -> frozenset[str]:
        """Variables that do not depend on the step."""
        return frozenset(name for one in self._chosen for name in one.static)

    @property
    def rows(self) -> list[Row]:
        """What was measured, in order of step."""
        return [self._rows[step] for step in sorted(self._rows)]

    @property
    def history(self) -> History | None:
        """Losses and accuracies that the run recorded itself; may be set."""
        return self._job.series.history

    @history.setter
    def history(self, history: History | None) -> None:
        self._job.series.history = history

    def notice(self, text: str) -> None:
        """Add what a reader of the result should know."""
        if text not in self._job.notices:
            self._job.notices.append(text)

    def try_out(self, checkpoint: Checkpoint) -> None:
        """Raise what would be wrong with every checkpoint like this one.

        Raises
        ------
        ArchitectureError
            If its tensors are of no known network.
        """
        self._job.plan.snapshot(checkpoint)

    # --- an earlier session --------------------------------------------------------------------

    def resume(self, previous: xr.DataTree | None) -> None:
        """Take over the rows of an earlier result of this run, and those in the journal.

        Raises
        ------
        StoreError
            If the result holds other runs, or numbers that were computed otherwise.
        """
        if previous is not None and previous.children:
            self._job.old = old = self._own(previous).to_dataset()
            wanted = {v for one in self._chosen if one.scope == "step" for v in one.variables}
            # those that failed as well: what was in memory cannot be tried again
            for (step, _), row in rows_of(old, frozenset(wanted), failed=True).items():
                self._rows[step] = row
            self._job.reasons.update(json.loads(old.attrs.get("not_computed", "{}")))
            assumed = json.loads(old.attrs.get("assumptions", "[]"))
            for text in str(old.attrs.get("notices", "")).splitlines():
                if text not in assumed:
                    self.notice(text)
        if self._journal is None:
            return
        for key in sorted(self._journal.keys()):
            entry = self._journal.get(key)
            if entry is None or "row" not in entry[0]:
                continue
            row = Row.unpack(*entry)
            if key == entry_of(self._job, row.step, row.digest):
                self._rows[row.step] = row

    def _own(self, previous: xr.DataTree) -> xr.DataTree:
        """Return the node of this run, if the result holds it alone and it can be continued."""
        held = [str(node.attrs.get("run", name)) for name, node in previous.children.items()]
        if held != [self._job.series.name]:
            raise StoreError(
                f"the earlier result is of {', '.join(held)}, and this run is called "
                f"{self._job.series.name!r}: a training that is followed has a result of its own"
            )
        (node,) = previous.children.values()
        old = json.loads(str(node.attrs.get("configuration", "{}")))
        new = json.loads(self._job.key)
        if other := [name for name in {**old, **new} if old.get(name) != new.get(name)]:
            raise StoreError(
                f"the earlier result differs in {', '.join(sorted(other))}: its numbers and new "
                "ones cannot stand in one run"
            )
        return node

    # --- growing -------------------------------------------------------------------------------

    def held(self, checkpoint: Checkpoint) -> bool:
        """Return whether this very checkpoint was measured already, and not in vain."""
        row = self._rows.get(checkpoint.step)
        if row is None or row.status == "failed":
            return False
        return row.digest == self._job.plan.digest(checkpoint)

    def contradicted(self, checkpoint: Checkpoint) -> list[int]:
        """Return the steps that a checkpoint ends: its own with other weights, and all later.

        A training that was taken up at an earlier step passes them anew.
        """
        row = self._rows.get(checkpoint.step)
        if row is not None and row.digest == self._job.plan.digest(checkpoint):
            return []
        return sorted(step for step in self._rows if step >= checkpoint.step)

    def drop(self, steps: Sequence[int]) -> None:
        """Leave rows out of the result."""
        for step in steps:
            row = self._rows.pop(step)
            if self._journal is not None:
                self._journal.remove(entry_of(self._job, step, row.digest))

    def add(self, checkpoint: Checkpoint, *, safely: bool = True) -> Row:
        """Measure a checkpoint and keep its row; `safely`: in the journal as well.

        What goes wrong with it becomes part of the row.
        """
        with one_thread():
            row = measure(self._job.plan, checkpoint)
        self._rows[row.step] = row
        # failures too: what was in memory cannot be tried again
        if safely and self._journal is not None:
            self._journal.put(entry_of(self._job, row.step, row.digest), *row.pack())
        return row

    def keep(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep arrays of the run in the journal, under a name; `kept` gives them back."""
        if self._journal is not None:
            self._journal.put(entry_of(self._job, -1, name), {"kept": name}, arrays)

    def kept(self, name: str) -> Mapping[str, NDArray[Any]] | None:
        """Return what `keep` was called with, or None."""
        entry = None if self._journal is None else self._journal.get(entry_of(self._job, -1, name))
        return None if entry is None else entry[1]

    # --- the result ----------------------------------------------------------------------------

    def dataset(self, attrs: Mapping[str, Any] | None = None) -> xr.Dataset:
        """Return the run as it stands, with its stages and forecast; `attrs` are added."""
        self._job.rows = list(self.rows)
        node, job = self._job.node, self._job
        dataset = add_coordinates({node: run_dataset(job)}, [job])[node]
        dataset.attrs.update(attrs or {})
        return dataset

    def tree(self, dataset: xr.Dataset) -> xr.DataTree:
        """Return a result that holds the run alone."""
        root = xr.Dataset(attrs=root_attrs(self._asked, self._chosen, self._model, [self._job], []))
        return xr.DataTree.from_dict({"/": root, self._job.node: dataset})
