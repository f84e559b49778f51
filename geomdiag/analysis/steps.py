"""One checkpoint in, one row out: the work that is cut into pieces."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geomdiag.analysis.assembly import Row, Value, values_of
from geomdiag.analysis.gone import Gone
from geomdiag.errors import CheckpointError, GeomdiagError, TaskError

if TYPE_CHECKING:
    from geomdiag.analyzers.contract import Analyzer
    from geomdiag.checkpoints.series import Checkpoint
    from geomdiag.models.selection import Selection
    from geomdiag.models.snapshot import Snapshot
    from geomdiag.tasks.contract import Task

__all__ = ["Plan", "measure", "measure_run"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Plan:
    """What is the same for every checkpoint of a run.

    Attributes
    ----------
    task : Task or None
        None when it could not be told; `problem` says why, and every row fails with it.
    analyzers : tuple of Analyzer
        Diagnostics to compute, in the order of their variables.
    train : (n,) bool array or None
        Which inputs were trained on.
    reasons : mapping of str to str
        Part of a snapshot to the reason why the run lacks it (``"split"``).
    model : str, callable or None
        The user's own model, as `geomdiag.models.snapshot` takes it.
    config : mapping
        The run's configuration.
    hide : tuple of str
        Leading parts of paths that have no place in a result.
    selection : Selection or None
        Matrices taken by name, and which of their rows.
    """

    task: Task | None
    analyzers: tuple[Analyzer, ...]
    train: NDArray[np.bool_] | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)
    model: Any = None
    config: Mapping[str, Any] = field(default_factory=dict)
    hide: tuple[str, ...] = ()
    problem: str = ""
    selection: Selection | None = None

    def digest(self, checkpoint: Checkpoint) -> str:
        """Return what the checkpoint's numbers depend on: its bytes, or the rows that are used."""
        if isinstance(checkpoint.load, Gone):
            return checkpoint.load.digest
        if self.selection is None or not self.selection.only or self.task is None:
            return checkpoint.digest
        if checkpoint.error:
            raise CheckpointError(checkpoint.error)
        return self.selection.digest(checkpoint, self.task)

    def snapshot(self, checkpoint: Checkpoint) -> Snapshot:
        """Return the checkpoint as an answer to the task."""
        from geomdiag.models import snapshot

        if self.task is None:
            raise TaskError(self.problem)
        if checkpoint.error:
            raise CheckpointError(checkpoint.error)
        return snapshot(
            checkpoint,
            self.task,
            train=self.train,
            model=self.model,
            config=self.config,
            selection=self.selection,
        )

    def missing(self, analyzer: Analyzer, snapshot: Snapshot) -> str:
        """Return why the diagnostic has no meaning here, or an empty string."""
        reason = analyzer.missing(snapshot, snapshot.task)
        part = next((part for part in analyzer.needs if reason and snapshot.missing(part)), "")
        return self.reasons.get(part, reason) if reason else ""

    def spell(self, error: BaseException) -> str:
        """Return an error's message as it stands in a result: without this machine's paths."""
        text = str(error) or type(error).__name__
        if not isinstance(error, GeomdiagError):
            text = f"{type(error).__name__}: {text}"
        for prefix in self.hide:
            text = text.replace(prefix, "")
        return re.sub(r" at 0x[0-9a-f]+", "", text)


def measure(plan: Plan, checkpoint: Checkpoint) -> Row:
    """Return the row of a checkpoint; whatever goes wrong with it becomes part of the row."""
    row = Row(step=checkpoint.step)
    try:
        row.digest = plan.digest(checkpoint)
        snapshot = plan.snapshot(checkpoint)
        row.facts = _facts(snapshot)
        _refuse_broken_numbers(snapshot, checkpoint)
    except Exception as error:  # a failure is data: the other checkpoints are worth analysing
        text, file = plan.spell(error), checkpoint.path.name
        row.status, row.error = "failed", text if file in text else f"{file}: {text}"
        return row
    failures: dict[str, list[str]] = {}
    for analyzer in plan.analyzers:
        if analyzer.scope != "step":
            continue
        if reason := plan.missing(analyzer, snapshot):
            row.reasons[analyzer.name] = reason
            continue
        try:
            row.values.update(_declared(analyzer, values_of(analyzer.compute(snapshot, plan.task))))
        except Exception as error:
            failures.setdefault(plan.spell(error), []).append(analyzer.name)
    if failures:
        row.status = "partial" if row.values else "failed"
        row.error = "; ".join(f"{', '.join(names)}: {text}" for text, names in failures.items())
    return row


def measure_run(plan: Plan, checkpoints: Sequence[Checkpoint]) -> tuple[list[Row], dict[str, str]]:
    """Return rows of the diagnostics that compare checkpoints, and why some are not there."""
    reasons: dict[str, str] = {}
    rows = [Row(step=checkpoint.step) for checkpoint in checkpoints]
    analyzers = [analyzer for analyzer in plan.analyzers if analyzer.scope == "run"]
    if not checkpoints or plan.task is None:
        return rows, reasons
    snapshots = _Snapshots(plan, checkpoints)
    for analyzer in analyzers:
        try:
            if reason := plan.missing(analyzer, snapshots[0]):
                reasons[analyzer.name] = reason
                continue
            values = _declared(analyzer, values_of(analyzer.compute(snapshots, plan.task)))
        except Exception as error:
            reasons[analyzer.name] = f"failed: {plan.spell(error)}"
            continue
        for number, row in enumerate(rows):
            row.values.update(
                (
                    name,
                    Value(value.dims[1:], value.values[number], value.labels[1:], value.attrs),
                )
                for name, value in values.items()
            )
    return rows, reasons


class _Snapshots(Sequence["Snapshot"]):
    """A run's snapshots, each made when it is asked for and then let go."""

    def __init__(self, plan: Plan, checkpoints: Sequence[Checkpoint]) -> None:
        self._plan = plan
        self._checkpoints = checkpoints

    def __len__(self) -> int:
        return len(self._checkpoints)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _Snapshots(self._plan, self._checkpoints[index])
        return self._plan.snapshot(replace(self._checkpoints[index]))

    def __iter__(self) -> Iterator[Snapshot]:
        return (self[index] for index in range(len(self)))


def _declared(analyzer: Analyzer, values: dict[str, Value]) -> dict[str, Value]:
    extra = sorted(set(values) - set(analyzer.variables))
    if extra:
        raise GeomdiagError(
            f"the analyzer {analyzer.name!r} returned {', '.join(extra)}, which it does not "
            "declare in its `variables`"
        )
    if analyzer.scope == "run":
        wrong = [name for name, value in values.items() if value.dims[:1] != ("step",)]
    else:
        wrong = [name for name, value in values.items() if "step" in value.dims]
    if wrong:
        raise GeomdiagError(
            f"the analyzer {analyzer.name!r} of scope {analyzer.scope!r} returned "
            f"{', '.join(wrong)} with{'out' * (analyzer.scope == 'run')} the dim 'step' in front"
        )
    return values


def _facts(snapshot: Snapshot) -> dict[str, str]:
    import json

    return {
        "architecture": snapshot.architecture,
        "roles": json.dumps(snapshot.roles, ensure_ascii=False),
        "assumptions": json.dumps(list(snapshot.notices), ensure_ascii=False),
    }


def _refuse_broken_numbers(snapshot: Snapshot, checkpoint: Checkpoint) -> None:
    """Raise if the network's numbers are not finite: no diagnostic has a meaning for them."""
    broken = [
        f"the matrix {name}"
        for name, matrix in snapshot.matrices.items()
        if not np.isfinite(matrix.values).all()
    ]
    if not broken and not snapshot.missing("logits"):
        finite = np.isfinite(snapshot.logits)
        if not finite.all():
            broken = [f"{finite.size - int(finite.sum())} of {finite.size} logits"]
    if not broken:
        return
    tensors = [
        name
        for name, values in checkpoint.tensors.items()
        if values.dtype.kind == "f" and not np.isfinite(values).all()
    ]
    if tensors:
        broken = [f"the tensor {name}" for name in tensors[:3]]
        broken += [f"{len(tensors) - 3} further tensors"] * (len(tensors) > 3)
    raise CheckpointError(
        f"{checkpoint.path.name}: NaN or infinity in {', '.join(broken)}. Expected finite numbers: "
        "the training diverged before this step, or the file is damaged. Leave the checkpoint "
        "out or save it again."
    )
