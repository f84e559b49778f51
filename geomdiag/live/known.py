"""Checkpoints whose digests are known already, and those that lie there no longer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from geomdiag.analysis.gone import Gone
from geomdiag.checkpoints.series import Checkpoint, Series
from geomdiag.errors import CheckpointError

__all__ = ["Known", "paths", "with_removed"]


@dataclass(eq=False, kw_only=True)
class Known(Checkpoint):
    """A checkpoint whose digest may be known: reading all files at every look would be dear.

    Attributes
    ----------
    memory : dict
        Holds the ``digest`` once it is known, for all copies of the checkpoint in this process.
    earlier : str
        Digest of what was measured at this step before: that of a file which is removed before
        its own can be told.
    """

    memory: dict[str, str] = field(default_factory=dict)
    earlier: str = ""

    @cached_property
    def digest(self) -> str:
        """As `Checkpoint.digest`."""
        if "digest" not in self.memory:
            try:
                self.memory["digest"] = super().digest
            except (OSError, CheckpointError):
                if not self.earlier or self.path.exists():
                    raise
                self.memory["digest"] = self.earlier
        return self.memory["digest"]


def with_removed(
    series: Series, told: Mapping[int, str], digest_of: Callable[[Checkpoint], str]
) -> list[Known]:
    """Return a run's checkpoints, and those that were measured and lie there no longer.

    Parameters
    ----------
    series : Series
        The run as it lies there.
    told : mapping of int to str
        Step to digest of what was measured before.
    digest_of : callable
        Returns a checkpoint's digest where it is known already, else an empty string.
    """
    rest = dict(told)
    found: list[Known] = []
    for one in series:
        if one.error and one.step in rest and not one.path.exists():
            continue  # removed between listing and opening
        found.append(_known(one, digest_of(one), rest.pop(one.step, "")))
    found += [_removed(series.path / f"step {step}", step, rest[step]) for step in rest]
    return sorted(found, key=lambda one: one.step)


def _known(checkpoint: Checkpoint, digest: str, earlier: str) -> Known:
    values = {one.name: getattr(checkpoint, one.name) for one in fields(checkpoint)}
    return Known(**values, memory={"digest": digest} if digest else {}, earlier=earlier)


def _removed(path: Any, step: int, digest: str) -> Known:
    return Known(step=step, path=path, load=Gone(path.name, digest), memory={"digest": digest})


def paths(checkpoint: Checkpoint) -> tuple[Path, ...]:
    """Return the files that a checkpoint names itself."""
    return tuple(cast("Path", path) for path in (checkpoint.path, *checkpoint.parts))
