"""Networks of which only the matrices are known: why they cannot be run is said, not guessed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomdiag.errors import MissingPartError
from geomdiag.models.layout import TokenLayout
from geomdiag.models.snapshot import Matrix, Network
from geomdiag.models.tensors import read_tensors

__all__ = ["EmbeddingNetwork", "token_matrices"]


def token_matrices(
    tensors: Mapping[str, Any], roles: Mapping[str, str], layout: TokenLayout, classes: int
) -> dict[str, Matrix]:
    """Return the rows of embedding and read-out that the task's tokens and classes have.

    Parameters
    ----------
    tensors : mapping of str to array
        A checkpoint's.
    roles : mapping of str to str
        With ``embed`` and, where it is known, ``unembed``; a row a token, a row a class.
    layout : TokenLayout
        Tells the tokens' rows.
    classes : int
        Of the task.

    Raises
    ------
    ArchitectureError
        If one holds values that are no numbers.
    """
    read = read_tensors(tensors, roles.values())
    found = {}
    for name, offset in zip(
        ("embedding", "embedding_right"), sorted(set(layout.offsets)), strict=False
    ):
        rows = read[roles["embed"]][offset : offset + layout.tokens]
        found[name] = Matrix(rows.contiguous().numpy())
    if "unembed" in roles:
        rows = read[roles["unembed"]][:classes]
        found["unembedding"] = Matrix(rows.contiguous().numpy(), rows="classes")
    return found


class EmbeddingNetwork(Network):
    """A network that is not run.

    Parameters
    ----------
    architecture : str
        Registry name.
    roles : mapping of str to str
        Part to tensor name.
    matrices : mapping of str to Matrix
        What is known of it.
    reason : str
        Why it cannot be run.
    """

    def __init__(
        self,
        architecture: str,
        *,
        roles: Mapping[str, str],
        matrices: Mapping[str, Matrix],
        reason: str,
    ) -> None:
        self.architecture = architecture
        self.roles = roles
        self.reasons = {"logits": reason, "differentiable": reason}
        self._matrices = dict(matrices)

    def matrices(self) -> dict[str, Matrix]:
        """Return what is known; see `Network.matrices`."""
        return dict(self._matrices)

    def logits(self, inputs: NDArray[np.int64]) -> NDArray[np.float32]:  # noqa: ARG002
        """Raise `MissingPartError` with the reason."""
        raise MissingPartError(self.reasons["logits"])
