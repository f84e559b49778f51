"""The one form in which a decoder transformer is run, whatever its tensors were called."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Block", "Norm", "Rotary", "TransformerWeights"]


@dataclass(frozen=True, eq=False)
class Norm:
    """LayerNorm, or RMSNorm when not `centered`; gain and offset may be absent."""

    centered: bool = True
    eps: float = 1e-5
    gain: Tensor | None = None
    offset: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        if self.centered:
            return functional.layer_norm(x, x.shape[-1:], self.gain, self.offset, self.eps)
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        if self.gain is not None:
            x = x * self.gain
        return x if self.offset is None else x + self.offset


@dataclass(frozen=True)
class Rotary:
    """Rotary positions (Su et al. 2021, arXiv 2104.09864): pairs of a head's axes are turned.

    Attributes
    ----------
    base : float
        Pair i of n turns by ``position / base ** (i / n)``.
    width : int
        Leading axes of a head that are turned; even.
    adjacent : bool
        Whether axes 2i and 2i + 1 are a pair, rather than i and i + n.
    """

    base: float
    width: int
    adjacent: bool = False

    def __call__(self, x: Tensor, positions: Tensor) -> Tensor:
        """Turn (..., positions, h, e); one position serves any number of rows."""
        powers = torch.arange(0, self.width, 2, dtype=x.dtype) / self.width
        angles = (positions.to(x.dtype)[:, None] * self.base**-powers)[:, None]
        cos, sin = angles.cos(), angles.sin()
        turned, rest = x[..., : self.width], x[..., self.width :]
        if self.adjacent:
            one, other = turned[..., ::2], turned[..., 1::2]
        else:
            one, other = turned.chunk(2, -1)
        pair = (one * cos - other * sin, other * cos + one * sin)
        turned = torch.stack(pair, -1).flatten(-2) if self.adjacent else torch.cat(pair, -1)
        return torch.cat([turned, rest], -1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Block:
    """Attention and an MLP, each added to the stream.

    Shapes (h heads, d width, e head width, m neurons): ``w_q, w_k, w_v`` (h, d, e), their
    biases (h, e); ``w_o`` (h, e, d); ``w_in`` (d, m), ``w_out`` (m, d), None without an MLP;
    ``w_gate`` as ``w_in``: the activation is taken of it and multiplies what ``w_in`` gives.
    ``norm_q`` and ``norm_k`` act on each head. Heads that share keys and values hold copies.
    """

    w_q: Tensor
    w_k: Tensor
    w_v: Tensor
    w_o: Tensor
    b_q: Tensor | None = None
    b_k: Tensor | None = None
    b_v: Tensor | None = None
    b_o: Tensor | None = None
    w_in: Tensor | None = None
    b_in: Tensor | None = None
    w_gate: Tensor | None = None
    b_gate: Tensor | None = None
    w_out: Tensor | None = None
    b_out: Tensor | None = None
    norm_attention: Norm | None = None
    norm_mlp: Norm | None = None
    norm_q: Norm | None = None
    norm_k: Norm | None = None
    score_scale: float | None = None

    @property
    def heads(self) -> int:
        """Number of heads."""
        return self.w_q.shape[0]

    @property
    def scale(self) -> float:
        """Factor of the scores: ``score_scale``, or 1/√e."""
        return 1.0 / math.sqrt(self.w_q.shape[2]) if self.score_scale is None else self.score_scale


@dataclass(frozen=True, eq=False, kw_only=True)
class TransformerWeights:
    """A decoder-only transformer.

    Attributes
    ----------
    embed : (vocabulary, d) Tensor
    unembed : (d, classes) Tensor
        Already restricted to the task's classes.
    blocks : tuple of Block
    positions : (context, d) Tensor or None
    rotary : Rotary or None
    unembed_bias : (classes,) Tensor or None
    norm_final : Norm or None
    activation : str
        Name in `settings.ACTIVATIONS`.
    coefficient : float
        Attention is ``softmax * coefficient + 1 - coefficient`` (Zhong et al. 2023,
        arXiv 2306.17844); 1 is ordinary attention.
    causal : bool
        Whether a position sees only itself and those before. Immaterial to the answer of a
        single block, whose last position sees all.
    parallel : bool
        Whether a block's MLP reads the stream as its attention does, rather than after it.
    """

    embed: Tensor
    unembed: Tensor
    blocks: tuple[Block, ...]
    positions: Tensor | None = None
    rotary: Rotary | None = None
    unembed_bias: Tensor | None = None
    norm_final: Norm | None = None
    activation: str = "relu"
    coefficient: float = 1.0
    causal: bool = True
    parallel: bool = False
