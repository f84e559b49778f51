"""All pairs of tokens through a decoder transformer of one block, from per-token tables.

The forward pass shares what inputs share: queries, keys and values are computed once per token
and position, and what attention adds to the stream is a mixture of per-token rows. Without a
normalisation after the attention the mixture is taken directly of the rows' images under the
MLP's first layer and the read-out, so that the first matrix product never happens, and the last
two are one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from geomdiag.models.architectures.decoder.steps import attention, keys, project, queries
from geomdiag.models.architectures.decoder.weights import TransformerWeights
from geomdiag.models.architectures.mixture import Mixture
from geomdiag.models.layout import TokenLayout
from geomdiag.models.tensors import activation_, empty_like, multiply

__all__ = ["pair_logits"]

#: Mixing a head's rows costs about as much per column as this many terms of a matrix product.
MIX_COST = 14


def pair_logits(
    weights: TransformerWeights, layout: TokenLayout, left: Tensor, right: Tensor
) -> Tensor:
    """Compute the logits of all pairs of tokens, (left * right, classes).

    Parameters
    ----------
    weights : TransformerWeights
        Of a single block.
    layout : TokenLayout
        Whose last position holds the right operand or a fixed token.
    left, right : (a,) and (b,) int64 tensors
        Tokens.
    """
    block = weights.blocks[0]
    mixture = _mixture(weights, layout, left, right)
    if (
        block.w_in is not None
        and block.w_out is not None
        and block.w_gate is None
        and block.norm_mlp is None
        and weights.norm_final is None
        and block.heads * MIX_COST <= weights.embed.shape[1]
    ):
        return _fused(weights, mixture, block.w_in, block.w_out)
    return _read_out(weights, mixture)


def _mixture(
    weights: TransformerWeights, layout: TokenLayout, left: Tensor, right: Tensor
) -> Mixture:
    """Return the stream after the attention, as mixtures of per-token rows."""
    block = weights.blocks[0]
    tables = []  # what each position may hold, as it enters the block
    for position, slot in enumerate(layout.slots):
        if slot.operand is None:
            rows = torch.tensor([slot.token])
        else:
            rows = (left, right)[slot.operand] + layout.offsets[slot.operand]
        table = weights.embed[rows]
        tables.append(table if weights.positions is None else table + weights.positions[position])
    normed = [
        table if block.norm_attention is None else block.norm_attention(table) for table in tables
    ]
    q = queries(weights, block, normed[-1], torch.tensor([len(tables) - 1]))
    shape = (len(left), len(right), block.heads)
    scores, images = [], []
    for position, (slot, table) in enumerate(zip(layout.slots, normed, strict=True)):
        k = keys(weights, block, table, torch.tensor([position]))
        if layout.slots[-1].operand is None:  # one question for all inputs
            score = torch.einsum("the,he->th", k, q[0])
            score = score[:, None] if slot.operand == 0 else score[None]
        elif slot.operand == 0:
            score = torch.einsum("ahe,bhe->abh", k, q)
        else:  # the right operand asks itself, or a fixed token
            score = torch.einsum("the,bhe->bh", k, q) if slot.operand is None else (k * q).sum(-1)
            score = score[None]
        scores.append(score.expand(shape))
        v = project(table, block.w_v, block.b_v)
        images.append(torch.einsum("the,hed->thd", v, block.w_o))
    pattern = attention(torch.stack(scores), 0, weights.coefficient)
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
        right_rows=torch.cat([images[at_right], base[:, None].expand(len(right), -1, -1)], dim=1),
    )


def _fused(weights: TransformerWeights, mixture: Mixture, w_in: Tensor, w_out: Tensor) -> Tensor:
    """Mix the rows' images under [first layer | read-out]; then one product remains."""
    block, unembed = weights.blocks[0], weights.unembed
    neurons, classes = w_in.shape[1], unembed.shape[1]
    mixture = mixture.mapped(torch.cat([w_in, unembed], dim=1))
    # the last of the right rows enters every sum once: the place for constants
    constant = mixture.right_rows[:, -1]
    if block.b_in is not None:
        constant[:, :neurons] += block.b_in
    constant[:, neurons:] += _output_bias(weights)
    read = multiply(w_out, unembed)
    act_ = activation_(weights.activation)

    def finish(rows: Tensor, out: Tensor) -> None:
        multiply(act_(rows[:, :neurons]), read, out)
        out += rows[:, neurons:]

    return _collect(weights, mixture, neurons + classes, finish)


def _read_out(weights: TransformerWeights, mixture: Mixture) -> Tensor:
    """Mix in the stream itself, then MLP, final normalisation and read-out, if any."""
    block, unembed = weights.blocks[0], weights.unembed
    act_ = activation_(weights.activation)

    def finish(x: Tensor, out: Tensor) -> None:
        if block.w_in is not None and block.w_out is not None:
            y = x if block.norm_mlp is None else block.norm_mlp(x)
            hidden = multiply(y, block.w_in)
            if block.b_in is not None:
                hidden += block.b_in
            if block.w_gate is None:
                hidden = act_(hidden)
            else:
                gate = multiply(y, block.w_gate)
                if block.b_gate is not None:
                    gate += block.b_gate
                hidden *= act_(gate)
            x = x.add_(multiply(hidden, block.w_out))
            if block.b_out is not None:
                x += block.b_out
        if weights.norm_final is not None:
            x = weights.norm_final(x)
        multiply(x, unembed, out)
        if weights.unembed_bias is not None:
            out += weights.unembed_bias

    neurons = 0 if block.w_in is None else block.w_in.shape[1]
    return _collect(weights, mixture, max(neurons, unembed.shape[0]), finish)


def _collect(
    weights: TransformerWeights,
    mixture: Mixture,
    width: int,
    finish: Callable[[Tensor, Tensor], None],
) -> Tensor:
    """Turn the mixture's chunks into logits by ``finish(rows, out)``, (n, classes)."""
    classes = weights.unembed.shape[1]
    count_left, count_right, _ = mixture.left_weights.shape
    logits = empty_like(weights.unembed, count_left, count_right, classes)
    room = logits.new_empty(0, classes)
    for left, right, rows in mixture.chunks(width):
        if len(room) < len(rows):
            room = logits.new_empty(len(rows), classes)
        out = room[: len(rows)]
        finish(rows, out)
        place = logits[left, right]
        place.copy_(out.view(place.shape[1], place.shape[0], classes).transpose(0, 1))
    return logits.view(-1, classes)


def _output_bias(weights: TransformerWeights) -> Tensor:
    """Return what the MLP's and the read-out's biases add to every logit."""
    bias = weights.unembed.new_zeros(weights.unembed.shape[1])
    for block in weights.blocks[-1:]:
        if block.b_out is not None:
            bias = bias + block.b_out @ weights.unembed
    return bias if weights.unembed_bias is None else bias + weights.unembed_bias
