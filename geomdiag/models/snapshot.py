"""One checkpoint seen as an answer to one task: its parts, each computed once, when asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from geomdiag.errors import MissingPartError
from geomdiag.tasks.contract import Task

__all__ = ["EMBEDDING_ONLY", "Matrix", "Network", "Snapshot"]


#: The `Snapshot.architecture` of matrices that were taken by name, with no network to run.
EMBEDDING_ONLY = "embedding only"


@dataclass(frozen=True, eq=False)
class Matrix:
    """A matrix of a network with a token or class axis.

    Attributes
    ----------
    values : (rows, columns) float array
        Rows are tokens 0 ... tokens-1 or classes 0 ... classes-1 of the task, in order.
    rows : {"tokens", "classes"}
        What the rows stand for.
    columns : {"features", "neurons"}
        ``neurons``: columns are hidden units, so that per-neuron measures have a meaning.
    """

    values: NDArray[Any]
    rows: Literal["tokens", "classes"] = "tokens"
    columns: Literal["features", "neurons"] = "features"


class Network(ABC):
    """Tensors recognised as a network that geomdiag can run on a task.

    Made by an architecture from a checkpoint's tensors; knows nothing of metrics.
    """

    #: Registry name of the architecture.
    architecture: str
    #: True when exchanging the two operands cannot change the output, whatever the weights.
    swap_invariant: bool = False
    #: Which tensor plays which part, part -> tensor name, for `inspect`.
    roles: Mapping[str, str]
    #: Part that it cannot give (``logits``, ``differentiable``) -> why.
    reasons: Mapping[str, str] = MappingProxyType({})

    @abstractmethod
    def matrices(self) -> dict[str, Matrix]:
        """Return named matrices: ``embedding``, and where they exist ``embedding_right``.

        Further names: ``unembedding``, ``neuron_input`` (tokens × neurons) and, where the right
        operand has its own, ``neuron_input_right``, ``neuron_logit`` (classes × neurons).
        Constant buffers never appear.
        """

    @abstractmethod
    def logits(self, inputs: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the answer-position logits over the task's classes, (n, classes)."""

    def logits_from_embeddings(self, operands: Sequence[Any]) -> Any:  # noqa: ARG002
        """Return logits, differentiably, from the operands' embedding vectors.

        Parameters
        ----------
        operands : sequence of (m, d) torch tensors
            One token-embedding vector per operand and row.

        Raises
        ------
        MissingPartError
            If the architecture cannot be run from embeddings.
        """
        raise MissingPartError(
            f"the architecture {self.architecture!r} cannot be run from embedding vectors"
        )


class Snapshot:
    """A checkpoint and a task, with the parts that diagnostics ask for.

    Parameters
    ----------
    task : Task
        What was to be learnt.
    network : Network or None
        The recognised network; None for a dump.
    matrices : mapping of str to Matrix, optional
        Given parts (from a dump).
    logits : (n, classes) float array, optional
        Given logits, in the order of ``task.inputs``.
    train : (n,) bool array, optional
        Which inputs were trained on.
    step : int
        Step of the checkpoint.
    metadata : mapping
        Scalars stored with the checkpoint.
    reasons : mapping of str to str
        Part name to the reason why it is missing.
    notices : sequence of str
        What had to be assumed to run the network.
    origin : str
        What the given parts come from, where there is no network.
    roles : mapping of str to str
        Given part to the name of its tensor.
    """

    def __init__(
        self,
        task: Task,
        network: Network | None = None,
        *,
        matrices: Mapping[str, Matrix] | None = None,
        logits: NDArray[Any] | None = None,
        train: NDArray[np.bool_] | None = None,
        step: int = 0,
        metadata: Mapping[str, Any] | None = None,
        reasons: Mapping[str, str] | None = None,
        notices: Sequence[str] = (),
        origin: str = "dump",
        roles: Mapping[str, str] | None = None,
    ) -> None:
        self.task = task
        self.network = network
        self.train = train
        self.step = step
        self.metadata = dict(metadata or {})
        self._given_matrices = dict(matrices or {})
        self._given_logits = logits
        self._reasons = dict(reasons or {})
        self.notices = tuple(notices)
        self._origin = origin
        self._given_roles = dict(roles or {})
        #: What diagnostics computed of this snapshot and others may need again.
        self.cache: dict[object, Any] = {}

    @property
    def architecture(self) -> str:
        """Which network it is; where there is none, what its parts come from."""
        return self._origin if self.network is None else self.network.architecture

    @property
    def roles(self) -> dict[str, str]:
        """Which tensor plays which part, part -> tensor name."""
        own = {} if self.network is None else dict(self.network.roles)
        return {**own, **self._given_roles}

    @cached_property
    def matrices(self) -> dict[str, Matrix]:
        """Named matrices; see `Network.matrices`."""
        if self.network is None:
            return self._given_matrices
        return {**self.network.matrices(), **self._given_matrices}

    @property
    def embedding(self) -> NDArray[Any]:
        """Token embedding, (tokens, d).

        Raises
        ------
        MissingPartError
            If there is none.
        """
        if reason := self.missing("embedding"):
            raise MissingPartError(reason)
        return self.matrices["embedding"].values

    @cached_property
    def logits(self) -> NDArray[Any]:
        """Logits over the task's classes for all inputs, (n, classes).

        Raises
        ------
        MissingPartError
            If the network cannot be run.
        """
        if self._given_logits is not None:
            return self._given_logits
        if reason := self.missing("logits"):
            raise MissingPartError(reason)
        if self.network is None:  # missing() said so already
            raise MissingPartError("the snapshot has no network")
        return self.network.logits(self.task.inputs)

    @cached_property
    def log_probabilities(self) -> NDArray[Any]:
        """Log-softmax of `logits` over the task's classes, (n, classes)."""
        from geomdiag.metrics.fit import log_softmax

        result: NDArray[Any] = log_softmax(self.logits)
        return result

    @property
    def swap_invariant(self) -> bool:
        """Whether the network cannot tell the order of its operands."""
        return self.network is not None and self.network.swap_invariant

    def missing(self, part: str) -> str:
        """Return why `part` is missing, or an empty string."""
        if part == "split":
            return "" if self.train is not None else self._reasons.get(part, "the split is unknown")
        own = {} if self.network is None else self.network.reasons
        if part == "logits":
            if self._given_logits is not None:
                return ""
            if self.network is not None:
                return own.get(part, "")
        elif part == "matrices":
            if self.matrices:
                return ""
        elif part == "differentiable":
            if self.network is not None:
                return self._reasons.get(part, own.get(part, ""))
        elif part in self.matrices:
            return ""
        return self._reasons.get(part, f"the checkpoint has no {part}")
