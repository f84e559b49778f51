"""From a convention's tensors to the one form in which decoder transformers are run."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from geomdiag.errors import ArchitectureError
from geomdiag.models.architectures.decoder.names import Naming
from geomdiag.models.architectures.decoder.options import Options
from geomdiag.models.architectures.decoder.weights import Block, Norm, TransformerWeights
from geomdiag.models.recognition import Fit

__all__ = ["canonical"]


def canonical(
    naming: Naming, fit: Fit, tensors: Mapping[str, Tensor], options: Options, classes: int
) -> TransformerWeights:
    """Bring a convention's tensors into the one form.

    Parameters
    ----------
    naming : Naming
        The convention.
    fit : Fit
        Its sizes.
    tensors : mapping of str to Tensor
        Part to tensor.
    options : Options
        What the weights do not say.
    classes : int
        Classes of the task; the read-out is cut to them.

    Returns
    -------
    TransformerWeights
    """
    embed, unembed = tensors["embed"], tensors["unembed"]
    if naming.orientation == "nanda":
        embed = embed.T
    if naming.orientation in ("linear", "conv1d"):
        unembed = unembed.T
    bias = tensors.get("unembed_bias")
    return TransformerWeights(
        embed=embed.contiguous(),
        unembed=unembed[:, :classes].contiguous(),
        blocks=tuple(_block(naming, i, tensors, options) for i in range(fit.blocks or 1)),
        positions=tensors.get("positions"),
        rotary=options.rotary,
        unembed_bias=None if bias is None else bias[:classes].contiguous(),
        norm_final=_norm("norm_final", "", tensors, options.norm_final, options.eps),
        activation=options.activation,
        coefficient=options.coefficient,
        causal=options.causal,
        parallel=options.parallel,
    )


def _norm(part: str, end: str, tensors: Mapping[str, Tensor], kind: str, eps: float) -> Norm | None:
    gain, offset = tensors.get(f"{part}_gain{end}"), tensors.get(f"{part}_offset{end}")
    if gain is None and offset is None:
        # normalisations without weights leave no trace but in the configuration
        if kind not in ("lnpre", "rmspre"):
            return None
        return Norm(centered=kind == "lnpre", eps=eps)
    # a gain without an offset is RMSNorm unless said otherwise
    centered = offset is not None or kind.startswith(("ln", "layer"))
    return Norm(centered=centered, eps=eps, gain=gain, offset=offset)


def _block(naming: Naming, index: int, tensors: Mapping[str, Tensor], options: Options) -> Block:
    heads, lens = options.heads, naming.orientation == "lens"
    # matrices that map (in) to (out) as the one form does, (in, out)
    forward = naming.orientation in ("lens", "conv1d")

    def get(part: str) -> Tensor | None:
        return tensors.get(f"{part}_{index}")

    def matrix(part: str) -> Tensor | None:
        found = get(part)
        return found if found is None or forward else found.T.contiguous()

    def norm(part: str, kind: str) -> Norm | None:
        return _norm(part, f"_{index}", tensors, kind, options.eps)

    output = tensors[f"w_o_{index}"]
    if not lens:  # (h·e, d), or its transpose
        output = output if forward else output.T
        output = output.reshape(heads, -1, output.shape[1]).contiguous()
    w_q, w_k, w_v = (_repeated(part, heads) for part in _projections(naming, index, tensors, heads))
    biases = [get(part) for part in ("b_q", "b_k", "b_v")]
    if (fused := get("b_qkv")) is not None:
        biases = [*_split(fused[:, None], naming, heads)]
    width = w_q.shape[2]
    b_q, b_k, b_v = (
        None if bias is None else _repeated(bias.reshape(-1, width), heads) for bias in biases
    )
    w_out, b_in, b_out = matrix("w_out"), get("b_in"), get("b_out")
    w_gate = matrix("w_gate")
    if lens and w_gate is not None and w_out is not None and b_in is not None:
        # TransformerLens adds it to the gated units, behind which only a linear map follows
        written = b_in @ w_out
        b_in, b_out = None, written if b_out is None else b_out + written
    return Block(
        w_q=w_q,
        w_k=w_k,
        w_v=w_v,
        w_o=output,
        b_q=b_q,
        b_k=b_k,
        b_v=b_v,
        b_o=get("b_o"),
        w_in=matrix("w_in"),
        b_in=b_in,
        w_gate=w_gate,
        b_gate=get("b_gate"),
        w_out=w_out,
        b_out=b_out,
        norm_attention=norm("norm_attention", options.norm),
        norm_mlp=None if get("w_in") is None else norm("norm_mlp", options.norm),
        norm_q=None if get("norm_q_gain") is None else norm("norm_q", "rms"),
        norm_k=None if get("norm_k_gain") is None else norm("norm_k", "rms"),
        score_scale=_score_scale(options, width, index),
    )


def _score_scale(options: Options, width: int, index: int) -> float | None:
    if not options.scale_by_layer:
        return options.score_scale
    return (width**-0.5 if options.score_scale is None else options.score_scale) / (index + 1)


def _projections(
    naming: Naming, index: int, tensors: Mapping[str, Tensor], heads: int
) -> list[Tensor]:
    """Return the matrices of queries, keys and values, each (heads of its own, d, e)."""
    if (fused := tensors.get(f"w_qkv_{index}")) is not None:
        stacked = fused.T if naming.orientation == "conv1d" else fused
        return [
            part.reshape(heads, -1, part.shape[1]).transpose(1, 2).contiguous()
            for part in _split(stacked, naming, heads)
        ]
    found = [tensors.get(f"w_{letter}_{index}") for letter in "qkv"]
    weights = [weight for weight in found if weight is not None]
    if len(weights) < 3:
        raise ArchitectureError(f"block {index} lacks one of query, key and value")
    if naming.orientation == "lens":
        return weights
    if naming.orientation == "nanda":  # (h, e, d)
        return [weight.transpose(1, 2).contiguous() for weight in weights]
    width = weights[0].shape[0] // heads
    return [
        weight.reshape(-1, width, weight.shape[1]).transpose(1, 2).contiguous()
        for weight in weights
    ]


def _split(fused: Tensor, naming: Naming, heads: int) -> list[Tensor]:
    """Cut (3·h·e, columns) into queries, keys and values, each (h·e, columns)."""
    if not naming.interleaved:
        return list(fused.chunk(3))
    by_head = fused.reshape(heads, 3, -1, fused.shape[1])
    return [by_head[:, part].flatten(0, 1) for part in range(3)]


def _repeated(part: Tensor, heads: int) -> Tensor:
    """Copy what heads share, (heads of its own, ...), to each of them."""
    return part.repeat_interleave(heads // part.shape[0], 0) if len(part) < heads else part
