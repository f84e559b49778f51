"""Names of transformers built on ``torch.nn.MultiheadAttention``, and what their code does.

Two public programs and their descendants: grokfast (https://github.com/ironjr/grokfast,
arXiv 2405.20233) and D. Mamay's reproduction of grokking
(https://github.com/danielmamay/grokking). Both train on [a, op, b, =] and answer at "=".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from geomdiag.checkpoints.series import TensorSpec
from geomdiag.errors import ArchitectureError
from geomdiag.models.architectures.decoder.weights import Block, Norm
from geomdiag.models.architectures.layered import Layer
from geomdiag.models.architectures.stacks.residual import Placement, ResidualStack
from geomdiag.models.recognition import Convention, Fit, NearMiss, Role, fit_convention
from geomdiag.models.settings import Settings
from geomdiag.models.tensors import restrict

__all__ = ["StackNaming", "find_heads", "find_placement", "fit_stack", "stack_of"]

_NUMBERED = re.compile(r"model\.(\d+)\.self_attn\.in_proj_weight")


@dataclass(frozen=True)
class StackNaming:
    """A convention, and what its code does that names and shapes do not say."""

    convention: Convention
    placement: Placement
    heads: int = 4
    activation: str = "gelu"


def _linear(part: str, name: str, out: str, into: str, at: str = "_{i}") -> tuple[Role, Role]:
    return (
        Role(f"w_{part}{at}", (f"{name}.weight",), f"{out} {into}"),
        Role(f"b_{part}{at}", (f"{name}.bias",), out, required=False),
    )


def _norm(part: str, name: str, at: str = "_{i}") -> tuple[Role, Role]:
    return (
        Role(f"norm_{part}_gain{at}", (f"{name}.weight",), "d"),
        Role(f"norm_{part}_offset{at}", (f"{name}.bias",), "d", required=False),
    )


def _attention(name: str) -> tuple[Role, ...]:
    return (
        Role("w_qkv_{i}", (f"{name}.in_proj_weight",), "3*d d"),
        Role("b_qkv_{i}", (f"{name}.in_proj_bias",), "3*d", required=False),
        *_linear("o", f"{name}.out_proj", "d", "d"),
    )


_TABLES = (
    Role("embed", ("token_embeddings.weight",), "V d"),
    Role("positions", ("position_embeddings.weight",), "n d"),
)
GROKFAST = StackNaming(
    Convention(
        "grokfast",
        (*_TABLES, *_norm("final", "ln_f", ""), *_linear("head", "head", "C", "d", "")),
        (
            *_norm("attention", "layers.{i}.ln_1"),
            *_attention("layers.{i}.attn"),
            *_norm("mlp", "layers.{i}.ln_2"),
            *_linear("in", "layers.{i}.mlp.0", "m", "d"),
            *_linear("out", "layers.{i}.mlp.2", "d", "m"),
        ),
    ),
    placement="carried",
)


def _sequential(blocks: int) -> StackNaming:
    """Return the naming in which blocks, norm and read-out are one ``nn.Sequential``."""
    return StackNaming(
        Convention(
            "numbered nn.Sequential",
            (
                *_TABLES,
                *_norm("final", f"model.{blocks}", ""),
                *_linear("head", f"model.{blocks + 1}", "C", "d", ""),
            ),
            (
                *_attention("model.{i}.self_attn"),
                *_norm("attention", "model.{i}.self_attn_norm"),
                *_linear("in", "model.{i}.ffn.0", "m", "d"),
                *_linear("out", "model.{i}.ffn.2", "d", "m"),
                *_norm("mlp", "model.{i}.ffn_norm"),
            ),
        ),
        placement="post",
    )


def fit_stack(specs: Mapping[str, TensorSpec]) -> tuple[StackNaming, Fit] | NearMiss:
    """Fit the two namings to a checkpoint's tensors.

    Parameters
    ----------
    specs : mapping of str to TensorSpec
        A checkpoint's tensors.

    Returns
    -------
    (StackNaming, Fit) or NearMiss
    """
    numbered = sum(bool(_NUMBERED.fullmatch(name)) for name in specs)
    naming = _sequential(numbered) if numbered else GROKFAST
    fit = fit_convention(naming.convention, specs)
    return fit if isinstance(fit, NearMiss) else (naming, fit)


def find_heads(width: int, usual: int, settings: Settings, notices: list[str]) -> int:
    """Return the number of heads, which fused projections do not show.

    Parameters
    ----------
    width : int
        Of all heads together.
    usual : int
        Taken where the configuration does not say.
    settings : Settings
        The run's configuration.
    notices : list of str
        An assumption is appended here.

    Raises
    ------
    ArchitectureError
        If the number does not divide the width.
    """
    heads = settings.integer(
        "n_heads", "num_heads", "nheads", "n_head", "heads", "num_attention_heads"
    )
    if heads is None:
        heads = usual if width % usual == 0 else 1
        notices.append(
            f"the number of heads is not in the weights and no configuration says it: {heads} "
            "assumed (say it as 'n_heads' in the run's config.json)"
        )
    if heads < 1 or width % heads:
        raise ArchitectureError(
            f"the configuration says {heads} heads, which do not divide an attention {width} wide"
        )
    return heads


def find_placement(naming: StackNaming, settings: Settings, notices: list[str]) -> Placement:
    """Return where blocks normalise: as the configuration says, else as the naming's program does.

    Parameters
    ----------
    naming : StackNaming
        Whose names the tensors have.
    settings : Settings
        The run's configuration.
    notices : list of str
        What is unusual is appended here.
    """
    said = settings.pre_norm()
    if said is not None:
        return "pre" if said else "post"
    if naming.placement == "carried":
        notices.append(
            "a block carries on the normalised stream, as grokfast's code does; if this network's "
            "does not, say 'norm_first' in the run's config.json"
        )
    return naming.placement


def stack_of(
    fit: Fit,
    parts: Mapping[str, Tensor],
    *,
    heads: int,
    placement: Placement,
    activation: str,
    eps: float,
    classes: int,
) -> ResidualStack:
    """Bring the tensors into the form that is run; the read-out is cut to `classes`."""

    def norm(part: str, at: str) -> Norm:
        gain, offset = parts[f"norm_{part}_gain{at}"], parts.get(f"norm_{part}_offset{at}")
        return Norm(eps=eps, gain=gain, offset=offset)

    def split(rows: Tensor) -> Tensor:  # (h*e, d) -> (h, d, e)
        return rows.reshape(heads, -1, rows.shape[1]).transpose(1, 2).contiguous()

    def block(i: int) -> Block:
        w_q, w_k, w_v = map(split, parts[f"w_qkv_{i}"].chunk(3))
        bias = parts.get(f"b_qkv_{i}")
        b_q, b_k, b_v = (
            (None,) * 3 if bias is None else (part.reshape(heads, -1) for part in bias.chunk(3))
        )
        output = parts[f"w_o_{i}"].T
        return Block(
            w_q=w_q,
            w_k=w_k,
            w_v=w_v,
            w_o=output.reshape(heads, -1, output.shape[1]).contiguous(),
            b_q=b_q,
            b_k=b_k,
            b_v=b_v,
            b_o=parts.get(f"b_o_{i}"),
            w_in=parts[f"w_in_{i}"].T.contiguous(),
            b_in=parts.get(f"b_in_{i}"),
            w_out=parts[f"w_out_{i}"].T.contiguous(),
            b_out=parts.get(f"b_out_{i}"),
            norm_attention=norm("attention", f"_{i}"),
            norm_mlp=norm("mlp", f"_{i}"),
        )

    bias = parts.get("b_head")
    return ResidualStack(
        blocks=tuple(block(i) for i in range(fit.blocks)),
        head=Layer(
            restrict(parts["w_head"].T, 1, classes),
            None if bias is None else restrict(bias, 0, classes),
        ),
        placement=placement,
        causal=True,
        positions=parts["positions"],
        norm_final=norm("final", ""),
        activation=activation,
    )
