"""The steps of a block that both passes of a decoder transformer take."""

from __future__ import annotations

import torch
from torch import Tensor

from geomdiag.models.architectures.decoder.weights import Block, Norm, TransformerWeights
from geomdiag.models.tensors import activation

__all__ = ["attention", "keys", "mlp", "project", "queries"]


def project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Map (..., d) to (..., h, e)."""
    y = torch.einsum("...d,hde->...he", x, weight)
    return y if bias is None else y + bias


def queries(weights: TransformerWeights, block: Block, x: Tensor, positions: Tensor) -> Tensor:
    """Return the scaled queries of (..., positions, d), or of (rows, d) at one position."""
    asked = project(x, block.w_q, block.b_q)
    return _placed(weights, block.norm_q, asked, positions) * block.scale


def keys(weights: TransformerWeights, block: Block, x: Tensor, positions: Tensor) -> Tensor:
    """Return the keys of (..., positions, d), or of (rows, d) at one position."""
    return _placed(weights, block.norm_k, project(x, block.w_k, block.b_k), positions)


def _placed(weights: TransformerWeights, norm: Norm | None, x: Tensor, positions: Tensor) -> Tensor:
    x = x if norm is None else norm(x)
    return x if weights.rotary is None else weights.rotary(x, positions)


def attention(scores: Tensor, axis: int, coefficient: float) -> Tensor:
    """Return the weights with which positions are mixed; see `TransformerWeights`."""
    pattern = torch.softmax(scores, dim=axis)
    return pattern if coefficient == 1 else pattern * coefficient + (1 - coefficient)


def mlp(weights: TransformerWeights, block: Block, x: Tensor) -> Tensor | None:
    """Return what a block's MLP adds to the stream, None without one; differentiable."""
    if block.w_in is None or block.w_out is None:
        return None
    y = x if block.norm_mlp is None else block.norm_mlp(x)
    act = activation(weights.activation)
    hidden = _affine(y, block.w_in, block.b_in)
    if block.w_gate is None:
        hidden = act(hidden)
    else:
        hidden = act(_affine(y, block.w_gate, block.b_gate)) * hidden
    return _affine(hidden, block.w_out, block.b_out)


def _affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y = x @ weight
    return y if bias is None else y + bias
