"""Decoder-only transformers of modular-arithmetic studies, whatever their tensors are called.

For a single block and a complete table of inputs the forward pass shares what inputs share:
queries, keys and values are computed once per token and position, and what attention adds to
the stream is a mixture of per-token rows. Without a normalisation after the attention the
mixture is taken directly of the rows' images under the MLP's first layer and the read-out, so
that the first matrix product never happens, and the last two are one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomdiag.checkpoints.series import TensorSpec
from geomdiag.models.architectures.mixture import Mixture
from geomdiag.models.architectures.transformer_names import NAMINGS, canonical, read_options
from geomdiag.models.architectures.transformer_weights import Block, TransformerWeights
from geomdiag.models.layout import Sizes, Slot, TokenLayout, plan
from geomdiag.models.recognition import (
    Architecture,
    Fit,
    Match,
    NearMiss,
    fit_convention,
    nearest,
)
from geomdiag.models.settings import Settings
from geomdiag.models.snapshot import Matrix, Network
from geomdiag.models.tensors import (
    activation,
    activation_,
    empty_like,
    multiply,
    product_grid,
    read_tensors,
)
from geomdiag.tasks.contract import Task

__all__ = ["ARCHITECTURE", "DecoderTransformer"]

#: Rows at a time of the pass that computes every position.
CHUNK_ROWS = 1024
#: Mixing a head's rows costs about as much per column as this many terms of a matrix product.
MIX_COST = 14


class DecoderTransformer(Network):
    """A decoder-only transformer that answers at its last position.

    Parameters
    ----------
    weights : TransformerWeights
        In the one form; the read-out is cut to the task's classes.
    layout : TokenLayout
        How inputs are shown to it.
    roles : mapping of str to str
        Part to tensor name.
    """

    architecture = "decoder_transformer"

    def __init__(
        self, weights: TransformerWeights, layout: TokenLayout, roles: Mapping[str, str]
    ) -> None:
        self.weights = weights
        self.layout = layout
        self.roles = roles
        # without positions a block is blind to order, unless a mask tells the positions apart
        self.swap_invariant = (
            weights.positions is None
            and layout.shared
            and layout.slots[-1].operand is None
            and (len(weights.blocks) == 1 or not weights.causal)
        )

    def matrices(self) -> dict[str, Matrix]:
        """Return embedding, unembedding and neuron-to-logit map; see `Network.matrices`."""
        weights, p = self.weights, self.layout.tokens
        found = {}
        for name, offset in zip(
            ("embedding", "embedding_right"), sorted(set(self.layout.offsets)), strict=False
        ):
            found[name] = Matrix(weights.embed[offset : offset + p].numpy())
        found["unembedding"] = Matrix(weights.unembed.T.contiguous().numpy(), rows="classes")
        last = weights.blocks[-1]
        if last.w_out is not None:
            found["neuron_logit"] = Matrix(
                (last.w_out @ weights.unembed).T.contiguous().numpy(),
                rows="classes",
                columns="neurons",
            )
        return found

    def logits(self, inputs: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the logits over the task's classes; see `Network.logits`.

        In the type the weights are stored in (half precision: float32).
        """
        if inputs.shape[1] == 3:
            return self._logits_by_middle(inputs)
        with torch.no_grad():
            grid = product_grid(inputs)
            ends = self.layout.slots[-1].operand in (None, 1)
            if grid is not None and ends and len(self.weights.blocks) == 1:
                result = self._grid_logits(*grid)
            else:
                result = self._table_logits(torch.from_numpy(np.asarray(inputs, dtype=np.int64)))
        values: NDArray[np.float32] = result.numpy()
        return values

    def _logits_by_middle(self, inputs: NDArray[np.int64]) -> NDArray[np.float32]:
        """Compute inputs of three symbols as pairs, for each middle symbol that is asked.

        A middle symbol that stays is as fixed as an operator, and what pairs share is shared.
        """
        offsets, slots = self.layout.offsets, self.layout.slots
        outer = {0: Slot(operand=0), 2: Slot(operand=1)}
        unembed = self.weights.unembed
        result: NDArray[Any] = unembed.new_empty(len(inputs), unembed.shape[1]).numpy()
        for symbol in np.unique(inputs[:, 1]):
            fixed = Slot(token=int(symbol) + offsets[1])
            pairs = replace(
                self.layout,
                offsets=(offsets[0], offsets[2]),
                slots=tuple(
                    slot if slot.operand is None else outer.get(slot.operand, fixed)
                    for slot in slots
                ),
            )
            rows = np.flatnonzero(inputs[:, 1] == symbol)
            asked = DecoderTransformer(self.weights, pairs, self.roles)
            result[rows] = asked.logits(inputs[rows][:, [0, 2]])
        return result

    def logits_from_embeddings(self, operands: Sequence[Any]) -> Tensor:
        """Return logits from embedding vectors; see `Network.logits_from_embeddings`."""
        weights = self.weights
        count = len(operands[0])
        stream = []
        for slot in self.layout.slots:
            if slot.operand is not None:
                stream.append(operands[slot.operand].to(weights.embed.dtype))
            else:
                stream.append(weights.embed[slot.token].expand(count, -1))
        x = torch.stack(stream, dim=1)
        if weights.positions is not None:
            x = x + weights.positions[: x.shape[1]]
        for index, block in enumerate(weights.blocks):
            x = self._block(block, x, only_last=index == len(weights.blocks) - 1)
        x = x[:, -1]
        if weights.norm_final is not None:
            x = weights.norm_final(x)
        logits = x @ weights.unembed
        return logits if weights.unembed_bias is None else logits + weights.unembed_bias

    def _table_logits(self, inputs: Tensor) -> Tensor:
        """Compute every position of every input, some rows at a time."""
        rows = inputs + torch.tensor(self.layout.offsets)
        embed = self.weights.embed
        parts = [
            self.logits_from_embeddings([embed[column] for column in part.T])
            for part in torch.split(rows, CHUNK_ROWS)
        ]
        return torch.cat(parts)

    def _block(self, block: Block, x: Tensor, *, only_last: bool) -> Tensor:
        """Run a block on (n, positions, d); `only_last` leaves out the other positions."""
        weights = self.weights
        y = x if block.norm_attention is None else block.norm_attention(x)
        asking = y[:, -1:] if only_last else y
        q = _project(asking, block.w_q, block.b_q) * block.scale
        k = _project(y, block.w_k, block.b_k)
        v = _project(y, block.w_v, block.b_v)
        scores = torch.einsum("nqhe,nkhe->nhqk", q, k)
        if weights.causal and not only_last:
            length = x.shape[1]
            hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(hidden, -torch.inf)
        pattern = _attention(scores, -1, weights.coefficient)
        x = x[:, -1:] if only_last else x
        x = x + torch.einsum("nhqk,nkhe,hed->nqd", pattern, v, block.w_o)
        if block.b_o is not None:
            x = x + block.b_o
        if block.w_in is None or block.w_out is None:
            return x
        y = x if block.norm_mlp is None else block.norm_mlp(x)
        hidden_units = y @ block.w_in
        if block.b_in is not None:
            hidden_units = hidden_units + block.b_in
        x = x + activation(weights.activation)(hidden_units) @ block.w_out
        return x if block.b_out is None else x + block.b_out

    def _grid_logits(self, left: Tensor, right: Tensor) -> Tensor:
        """Compute all pairs of a single block from per-token tables."""
        weights = self.weights
        block = weights.blocks[0]
        mixture = self._mixture(left, right)
        if (
            block.w_in is not None
            and block.w_out is not None
            and block.norm_mlp is None
            and weights.norm_final is None
            and block.heads * MIX_COST <= weights.embed.shape[1]
        ):
            return self._fused(mixture, block.w_in, block.w_out)
        return self._read_out(mixture)

    def _mixture(self, left: Tensor, right: Tensor) -> Mixture:
        weights, layout = self.weights, self.layout
        block = weights.blocks[0]
        tables = []  # what each position may hold, as it enters the block
        for position, slot in enumerate(layout.slots):
            if slot.operand is None:
                rows = torch.tensor([slot.token])
            else:
                rows = (left, right)[slot.operand] + layout.offsets[slot.operand]
            table = weights.embed[rows]
            tables.append(
                table if weights.positions is None else table + weights.positions[position]
            )
        normed = [
            table if block.norm_attention is None else block.norm_attention(table)
            for table in tables
        ]
        q = _project(normed[-1], block.w_q, block.b_q) * block.scale
        shape = (len(left), len(right), block.heads)
        scores, images = [], []
        for slot, table in zip(layout.slots, normed, strict=True):
            k = _project(table, block.w_k, block.b_k)
            if layout.slots[-1].operand is None:  # one question for all inputs
                score = torch.einsum("the,he->th", k, q[0])
                score = score[:, None] if slot.operand == 0 else score[None]
            elif slot.operand == 0:
                score = torch.einsum("ahe,bhe->abh", k, q)
            else:  # the right operand asks itself, or a fixed token
                score = (
                    torch.einsum("the,bhe->bh", k, q) if slot.operand is None else (k * q).sum(-1)
                )
                score = score[None]
            scores.append(score.expand(shape))
            v = _project(table, block.w_v, block.b_v)
            images.append(torch.einsum("the,hed->thd", v, block.w_o))
        pattern = _attention(torch.stack(scores), 0, weights.coefficient)
        at_left, at_right, fixed = 0, 0, []
        for position, slot in enumerate(layout.slots):
            if slot.operand is None:
                fixed.append(position)
            elif slot.operand == 0:
                at_left = position
            else:
                at_right = position
        base = tables[-1] if block.b_o is None else tables[-1] + block.b_o
        once = pattern.new_ones(len(right), len(left), 1)
        return Mixture(
            left_weights=torch.cat([pattern[position] for position in (at_left, *fixed)], dim=2),
            left_rows=images[at_left],
            fixed_rows=torch.cat([images[at_left][0, :0], *(images[one][0] for one in fixed)]),
            right_weights=torch.cat([pattern[at_right].transpose(0, 1), once], dim=2),
            right_rows=torch.cat(
                [images[at_right], base[:, None].expand(len(right), -1, -1)], dim=1
            ),
        )

    def _fused(self, mixture: Mixture, w_in: Tensor, w_out: Tensor) -> Tensor:
        """Mix the rows' images under [first layer | read-out]; then one product remains."""
        block, unembed = self.weights.blocks[0], self.weights.unembed
        neurons, classes = w_in.shape[1], unembed.shape[1]
        mixture = mixture.mapped(torch.cat([w_in, unembed], dim=1))
        # the last of the right rows enters every sum once: the place for constants
        constant = mixture.right_rows[:, -1]
        if block.b_in is not None:
            constant[:, :neurons] += block.b_in
        constant[:, neurons:] += _output_bias(self.weights)
        read = multiply(w_out, unembed)
        act_ = activation_(self.weights.activation)

        def finish(rows: Tensor, out: Tensor) -> None:
            multiply(act_(rows[:, :neurons]), read, out)
            out += rows[:, neurons:]

        return self._collect(mixture, neurons + classes, finish)

    def _read_out(self, mixture: Mixture) -> Tensor:
        """Mix in the stream itself, then MLP, final normalisation and read-out, if any."""
        weights = self.weights
        block, unembed = weights.blocks[0], weights.unembed
        act_ = activation_(weights.activation)

        def finish(x: Tensor, out: Tensor) -> None:
            if block.w_in is not None and block.w_out is not None:
                y = x if block.norm_mlp is None else block.norm_mlp(x)
                hidden = multiply(y, block.w_in)
                if block.b_in is not None:
                    hidden += block.b_in
                x = x.add_(multiply(act_(hidden), block.w_out))
                if block.b_out is not None:
                    x += block.b_out
            if weights.norm_final is not None:
                x = weights.norm_final(x)
            multiply(x, unembed, out)
            if weights.unembed_bias is not None:
                out += weights.unembed_bias

        neurons = 0 if block.w_in is None else block.w_in.shape[1]
        return self._collect(mixture, max(neurons, unembed.shape[0]), finish)

    def _collect(
        self, mixture: Mixture, width: int, finish: Callable[[Tensor, Tensor], None]
    ) -> Tensor:
        """Turn the mixture's chunks into logits by ``finish(rows, out)``, (n, classes)."""
        classes = self.weights.unembed.shape[1]
        count_left, count_right, _ = mixture.left_weights.shape
        logits = empty_like(self.weights.unembed, count_left, count_right, classes)
        room = logits.new_empty(0, classes)
        for left, right, rows in mixture.chunks(width):
            if len(room) < len(rows):
                room = logits.new_empty(len(rows), classes)
            out = room[: len(rows)]
            finish(rows, out)
            place = logits[left, right]
            place.copy_(out.view(place.shape[1], place.shape[0], classes).transpose(0, 1))
        return logits.view(-1, classes)


def _project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Map (..., d) to (..., h, e)."""
    y = torch.einsum("...d,hde->...he", x, weight)
    return y if bias is None else y + bias


def _attention(scores: Tensor, axis: int, coefficient: float) -> Tensor:
    pattern = torch.softmax(scores, dim=axis)
    return pattern if coefficient == 1 else pattern * coefficient + (1 - coefficient)


def _output_bias(weights: TransformerWeights) -> Tensor:
    """Return what the MLP's and the read-out's biases add to every logit."""
    bias = weights.unembed.new_zeros(weights.unembed.shape[1])
    for block in weights.blocks[-1:]:
        if block.b_out is not None:
            bias = bias + block.b_out @ weights.unembed
    return bias if weights.unembed_bias is None else bias + weights.unembed_bias


class _Architecture(Architecture):
    name = "decoder_transformer"
    title = "decoder-only transformer (Nanda, TransformerLens, pizza, pre-LN and plain names)"

    def match(self, specs: Mapping[str, TensorSpec], settings: Settings) -> Match | NearMiss:
        misses = []
        for naming in NAMINGS:
            fit = fit_convention(naming.convention, specs, ignored=_copies(specs))
            if isinstance(fit, Fit):
                half = next((i for i in range(fit.blocks or 1) if _half_mlp(fit, i)), None)
                if half is None:
                    return self._matched(naming, fit, settings)
                fit = NearMiss(
                    len(fit.roles) - 1.0,
                    f"{naming.convention.name}: block {half} has only one layer of its MLP",
                )
            misses.append(fit)
        return nearest(misses)

    def _matched(self, naming: Any, fit: Fit, settings: Settings) -> Match:
        notices: list[str] = []
        options = read_options(naming, fit, settings, notices)
        sizes = Sizes(fit.dims["V"], fit.dims["C"], fit.dims.get("n"), sequence=True)

        def build(tensors: Mapping[str, NDArray[Any]], task: Task) -> DecoderTransformer:
            layout = plan(task, sizes, settings, [])
            read = read_tensors(tensors, fit.roles.values())
            parts = {part: read[name] for part, name in fit.roles.items()}
            weights = canonical(naming, fit, parts, options, task.classes)
            return DecoderTransformer(weights, layout, fit.roles)

        return Match(
            architecture=self.name,
            convention=naming.convention.name,
            roles=fit.roles,
            sizes=sizes,
            build=build,
            notices=tuple(notices),
        )


def _half_mlp(fit: Fit, block: int) -> bool:
    return (f"w_in_{block}" in fit.roles) != (f"w_out_{block}" in fit.roles)


def _copies(specs: Mapping[str, TensorSpec]) -> Any:
    """Tell of the embedding's copies that group-composition studies store beside it."""
    embed = specs.get("embed.W_E")

    def ignored(name: str) -> bool:
        return (
            name in ("x_embed", "y_embed")
            and embed is not None
            and specs[name].shape == embed.shape
        )

    return ignored


ARCHITECTURE = _Architecture()
