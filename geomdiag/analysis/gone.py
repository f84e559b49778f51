"""Checkpoints that were measured and lie there no longer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from geomdiag.errors import CheckpointError

if TYPE_CHECKING:
    from geomdiag.checkpoints.series import TensorMap

__all__ = ["Gone"]


class Gone:
    """Stands for reading a checkpoint that lies there no longer.

    Parameters
    ----------
    name : str
        What messages call it.
    digest : str
        Under which it was measured.
    """

    def __init__(self, name: str, digest: str) -> None:
        self.name, self.digest = name, digest

    def __call__(self) -> TensorMap:
        """Raise that it is gone."""
        raise CheckpointError(
            f"{self.name}: the checkpoint was measured and has been removed since, so it cannot "
            "be measured again"
        )
