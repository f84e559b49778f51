"""Networks that are run position by position, whatever stands between embedding and read-out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomdiag.models.layout import TokenLayout
from geomdiag.models.snapshot import Matrix, Network

__all__ = ["SequenceNetwork"]

#: Rows run at a time.
CHUNK_ROWS = 2048


class SequenceNetwork(Network):
    """A network given as a function from the vectors at its positions to its logits.

    Parameters
    ----------
    architecture : str
        Registry name.
    forward : callable
        ``forward(vectors)`` maps a list of (n, d) tensors, one a position, to (n, classes)
        logits over the task's classes; differentiable.
    tables : tuple of (vocabulary, d) Tensor
        The embedding that each position is read from; the same object where they share it.
    layout : TokenLayout
        What each position holds.
    unembed : (units, classes) Tensor
        Read-out, cut to the task's classes.
    roles : mapping of str to str
        Part to tensor name.
    neurons : bool
        Whether the read-out sits on units with a non-linearity of their own.
    neuron_logit : (units, classes) Tensor, optional
        What the last hidden units write to the logits, where that is another matrix.
    token_neurons : bool
        Whether tokens' vectors enter units as they are (one-hot inputs).
    swap_invariant : bool
        See `Network`.
    """

    def __init__(
        self,
        architecture: str,
        *,
        forward: Callable[[Sequence[Tensor]], Tensor],
        tables: tuple[Tensor, ...],
        layout: TokenLayout,
        unembed: Tensor,
        roles: Mapping[str, str],
        neurons: bool = False,
        neuron_logit: Tensor | None = None,
        token_neurons: bool = False,
        swap_invariant: bool = False,
    ) -> None:
        self.architecture = architecture
        self.layout = layout
        self.roles = roles
        self.swap_invariant = swap_invariant
        self._forward, self._tables = forward, tables
        self._token_neurons = token_neurons
        self._unembed, self._neurons = unembed, neurons
        self._neuron_logit = unembed if neurons else neuron_logit

    def _operand_table(self, operand: int) -> tuple[Tensor, int]:
        """Return the embedding that an operand is read from, and the row of its token 0."""
        position = next(i for i, slot in enumerate(self.layout.slots) if slot.operand == operand)
        return self._tables[position], self.layout.offsets[operand]

    def matrices(self) -> dict[str, Matrix]:
        """Return embedding(s), unembedding and neuron-to-logit map; see `Network.matrices`."""
        found: dict[str, Matrix] = {}
        seen: list[tuple[Tensor, int]] = []
        for operand, offset in enumerate(self.layout.offsets):
            table, _ = self._operand_table(operand)
            if len(seen) < 2 and not any(table is one and offset == at for one, at in seen):
                name = ("embedding", "embedding_right")[len(seen)]
                rows = table[offset : offset + self.layout.tokens]
                columns: Literal["features", "neurons"] = "features"
                if self._token_neurons:
                    columns = "neurons"
                found[name] = Matrix(rows.contiguous().numpy(), columns=columns)
                if self._token_neurons:
                    found[name.replace("embedding", "neuron_input")] = found[name]
                seen.append((table, offset))
        found["unembedding"] = Matrix(
            self._unembed.T.contiguous().numpy(),
            rows="classes",
            columns="neurons" if self._neurons else "features",
        )
        if self._neuron_logit is not None:
            found["neuron_logit"] = Matrix(
                self._neuron_logit.T.contiguous().numpy(), rows="classes", columns="neurons"
            )
        return found

    def logits(self, inputs: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the logits over the task's classes; see `Network.logits`."""
        rows = torch.from_numpy(np.asarray(inputs, dtype=np.int64))
        places = [self._operand_table(operand) for operand in range(rows.shape[1])]
        with torch.no_grad():
            parts = [
                self.logits_from_embeddings(
                    [
                        table[column + offset]
                        for (table, offset), column in zip(places, part.T, strict=True)
                    ]
                )
                for part in torch.split(rows, CHUNK_ROWS)
            ]
        values: NDArray[np.float32] = torch.cat(parts).numpy()
        return values

    def logits_from_embeddings(self, operands: Sequence[Any]) -> Tensor:
        """Return logits from embedding vectors; see `Network.logits_from_embeddings`."""
        count, dtype = len(operands[0]), self._unembed.dtype
        vectors = []
        for slot, table in zip(self.layout.slots, self._tables, strict=True):
            if slot.operand is not None:
                vectors.append(operands[slot.operand].to(dtype))
            else:
                vectors.append(table[slot.token].expand(count, -1))
        return self._forward(vectors)
