"""Checkpoints whose digests are known already, and those that lie there no longer."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from geomdiag.analysis.gone import Gone
from geomdiag.checkpoints.series import Checkpoint
from geomdiag.errors import CheckpointError

__all__ = ["Known", "known", "paths", "removed"]


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


def known(checkpoint: Checkpoint, digest: str, earlier: str = "") -> Known:
    """Return a checkpoint with its digest, empty where it is not known yet."""
    values = {one.name: getattr(checkpoint, one.name) for one in fields(checkpoint)}
    return Known(**values, memory={"digest": digest} if digest else {}, earlier=earlier)


def removed(path: Any, step: int, digest: str) -> Known:
    """Return what stands for a checkpoint that lies there no longer."""
    return Known(step=step, path=path, load=Gone(path.name, digest), memory={"digest": digest})


def paths(checkpoint: Checkpoint) -> tuple[Path, ...]:
    """Return the files that a checkpoint names itself."""
    return tuple(cast("Path", path) for path in (checkpoint.path, *checkpoint.parts))
