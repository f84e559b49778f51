"""Transformers run as written: normalisation before, after or instead of the stream, any pooling.

Slower than `decoder_transformer`, which shares between inputs what they share, and without its
restrictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from geomdiag.models.architectures.decoder.weights import Block, Norm
from geomdiag.models.architectures.layered import Layer
from geomdiag.models.layout import TokenLayout
from geomdiag.models.tensors import activation

__all__ = ["Placement", "Pool", "ResidualStack"]

Placement = Literal["pre", "post", "carried"]
Pool = Literal["last", "first", "mean", "flatten"]


@dataclass(frozen=True, eq=False, kw_only=True)
class ResidualStack:
    """Blocks of attention and MLP between embedding vectors and logits.

    Attributes
    ----------
    blocks : tuple of Block
        Weights of each.
    head : Layer
        Read-out (features, classes).
    placement : {"pre", "post", "carried"}
        Where a block normalises: what enters a branch (pre-LN), the sum of stream and branch
        (post-LN), or, ``carried``, the stream itself before the attention, the MLP being pre-LN.
    causal : bool
        Whether a position sees only itself and those before.
    pool : {"last", "first", "mean", "flatten"}
        What of the positions the read-out gets.
    positions : (context, d) Tensor or None
        Added to the vectors.
    norm_final : Norm or None
        Before the read-out.
    activation : str
        Name in `settings.ACTIVATIONS`.
    """

    blocks: tuple[Block, ...]
    head: Layer
    placement: Placement
    causal: bool
    pool: Pool = "last"
    positions: Tensor | None = None
    norm_final: Norm | None = None
    activation: str = "relu"

    def __call__(self, vectors: Sequence[Tensor]) -> Tensor:
        """Return (n, classes) logits of a list of (n, d) vectors, one a position."""
        x = torch.stack(list(vectors), dim=1)
        if self.positions is not None:
            x = x + self.positions[: x.shape[1]]
        for block in self.blocks:
            x = self._block(block, x)
        if self.norm_final is not None:
            x = self.norm_final(x)
        if self.pool == "flatten":
            return self.head(x.flatten(1))
        if self.pool == "mean":
            return self.head(x.mean(1))
        return self.head(x[:, -1 if self.pool == "last" else 0])

    def _block(self, block: Block, x: Tensor) -> Tensor:
        into, onto = block.norm_attention, block.norm_mlp
        if self.placement == "post":
            x = _through(into, x + self._attention(block, x))
            return x if block.w_in is None else _through(onto, x + self._mlp(block, x))
        y = _through(into, x)
        x = (y if self.placement == "carried" else x) + self._attention(block, y)
        return x if block.w_in is None else x + self._mlp(block, _through(onto, x))

    def _attention(self, block: Block, x: Tensor) -> Tensor:
        q, k, v = (
            _project(x, weight, bias)
            for weight, bias in (
                (block.w_q, block.b_q),
                (block.w_k, block.b_k),
                (block.w_v, block.b_v),
            )
        )
        scores = torch.einsum("nqhe,nkhe->nhqk", q * block.scale, k)
        if self.causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        out = torch.einsum("nhqk,nkhe,hed->nqd", scores.softmax(-1), v, block.w_o)
        return out if block.b_o is None else out + block.b_o

    def _mlp(self, block: Block, x: Tensor) -> Tensor:
        if block.w_in is None or block.w_out is None:
            raise ValueError("a block has only one layer of its MLP")
        hidden = activation(self.activation)(Layer(block.w_in, block.b_in)(x))
        return Layer(block.w_out, block.b_out)(hidden)

    def blind_to_order(self, layout: TokenLayout) -> bool:
        """Tell whether exchanging the operands cannot change the answer.

        Without positions a block is blind to order; a mask tells the positions apart, except to
        the last position of a single block.
        """
        ends = {"last": -1, "first": 0}.get(self.pool)
        fixed = ends is None or layout.slots[ends].operand is None
        alike = not self.causal or (len(self.blocks) == 1 and self.pool == "last")
        return (
            self.positions is None and layout.shared and fixed and alike and self.pool != "flatten"
        )

    def neuron_logit(self) -> Tensor | None:
        """Return what the last block's neurons write to the logits directly, (m, classes)."""
        last = self.blocks[-1].w_out
        if last is None or self.pool == "flatten":
            return None
        return last @ self.head.weight


def _through(norm: Norm | None, x: Tensor) -> Tensor:
    return x if norm is None else norm(x)


def _project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Map (n, positions, d) to (n, positions, h, e)."""
    y = torch.einsum("npd,hde->nphe", x, weight)
    return y if bias is None else y + bias
