"""How the decoder transformers of grokking studies name and orient their tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from geomdiag.models.recognition import Convention, Role

__all__ = ["NAMINGS", "Naming", "needed", "optional"]


def needed(part: str, names: str, axes: str) -> Role:
    """Return a tensor that must be there; its possible names are separated by spaces."""
    return Role(part, tuple(names.split()), axes)


def optional(part: str, names: str, axes: str) -> Role:
    """Return a tensor that may be absent; its possible names are separated by spaces."""
    return Role(part, tuple(names.split()), axes, required=False)


_EMBED = "embed.W_E"
_LENS_NORMS = (
    optional("norm_attention_gain_{i}", "blocks.{i}.ln1.w", "d"),
    optional("norm_attention_offset_{i}", "blocks.{i}.ln1.b", "d"),
    optional("norm_mlp_gain_{i}", "blocks.{i}.ln2.w", "d"),
    optional("norm_mlp_offset_{i}", "blocks.{i}.ln2.b", "d"),
)
_LENS_FINAL = (
    optional("norm_final_gain", "ln_final.w", "d"),
    optional("norm_final_offset", "ln_final.b", "d"),
)
_LENS_BIASES = tuple(
    optional(f"b_{letter.lower()}_{{i}}", f"blocks.{{i}}.attn.b_{letter}", "h e")
    for letter in "QKV"
)


@dataclass(frozen=True)
class Naming:
    """A convention and what its writers leave unsaid.

    Attributes
    ----------
    convention : Convention
        Names and shapes.
    orientation : {"nanda", "lens", "linear", "conv1d"}
        How matrices lie: ``nanda``, tokens are columns and heads come first; ``lens``, as the
        one form; ``linear``, as ``torch.nn.Linear`` stores them, heads side by side, so that
        their number must come from the configuration; ``conv1d``, the transpose of ``linear``
        but for embedding and read-out.
    activation : str
        Used where no configuration names one.
    norm : str
        Kind of normalisation where no configuration names one: ``"ln"``, ``"rms"``, or an
        empty string, when a gain without an offset is taken for RMSNorm.
    eps : float
        Of normalisations, where no configuration names one.
    model_types : tuple of str
        Hugging Face's names (``model_type``) of the models that are run as this. Where there
        are any, weights and configuration must determine the network: nothing is guessed of
        heads, positions or a read-out that is missing.
    rotary : {"", "halves", "adjacent"}
        Which of a head's axes rotary positions pair; empty where there are none.
    rotary_share : float
        Share of a head's axes that are turned, where no configuration says it.
    interleaved : bool
        Whether fused queries, keys and values alternate head by head.
    tied : bool or None
        Whether a missing read-out is the embedding: None where the configuration must say.
    parallel : bool
        See `TransformerWeights`; where no configuration says it.
    """

    convention: Convention
    orientation: Literal["nanda", "lens", "linear", "conv1d"]
    activation: str = "relu"
    norm: str = ""
    eps: float = 1e-5
    model_types: tuple[str, ...] = ()
    rotary: Literal["", "halves", "adjacent"] = ""
    rotary_share: float = 1.0
    interleaved: bool = False
    tied: bool | None = None
    parallel: bool = False


NANDA = Naming(
    Convention(
        "Nanda's grokking code",
        (
            needed("embed", _EMBED, "d V"),
            optional("positions", "pos_embed.W_pos", "n d"),
            needed("unembed", "unembed.W_U", "d C"),
            optional("unembed_bias", "unembed.b_U", "C"),
            *_LENS_FINAL,
        ),
        (
            *(
                needed(f"w_{letter.lower()}_{{i}}", f"blocks.{{i}}.attn.W_{letter}", "h e d")
                for letter in "QKV"
            ),
            needed("w_o_{i}", "blocks.{i}.attn.W_O", "d h*e"),
            *_LENS_BIASES,
            optional("b_o_{i}", "blocks.{i}.attn.b_O", "d"),
            optional("w_in_{i}", "blocks.{i}.mlp.W_in", "m d"),
            optional("b_in_{i}", "blocks.{i}.mlp.b_in", "m"),
            optional("w_out_{i}", "blocks.{i}.mlp.W_out", "d m"),
            optional("b_out_{i}", "blocks.{i}.mlp.b_out", "d"),
            *_LENS_NORMS,
        ),
    ),
    orientation="nanda",
)

LENS = Naming(
    Convention(
        "TransformerLens",
        (
            needed("embed", _EMBED, "V d"),
            optional("positions", "pos_embed.W_pos", "n d"),
            needed("unembed", "unembed.W_U", "d C"),
            optional("unembed_bias", "unembed.b_U", "C"),
            *_LENS_FINAL,
        ),
        (
            needed("w_q_{i}", "blocks.{i}.attn.W_Q", "h d e"),
            # heads that share keys and values: their names begin with a "_"
            needed("w_k_{i}", "blocks.{i}.attn.W_K blocks.{i}.attn._W_K", "k d e"),
            needed("w_v_{i}", "blocks.{i}.attn.W_V blocks.{i}.attn._W_V", "k d e"),
            needed("w_o_{i}", "blocks.{i}.attn.W_O", "h e d"),
            optional("b_q_{i}", "blocks.{i}.attn.b_Q", "h e"),
            optional("b_k_{i}", "blocks.{i}.attn.b_K blocks.{i}.attn._b_K", "k e"),
            optional("b_v_{i}", "blocks.{i}.attn.b_V blocks.{i}.attn._b_V", "k e"),
            optional("b_o_{i}", "blocks.{i}.attn.b_O", "d"),
            optional("w_in_{i}", "blocks.{i}.mlp.W_in", "d m"),
            optional("b_in_{i}", "blocks.{i}.mlp.b_in", "m"),
            optional("w_gate_{i}", "blocks.{i}.mlp.W_gate", "d m"),
            optional("w_out_{i}", "blocks.{i}.mlp.W_out", "m d"),
            optional("b_out_{i}", "blocks.{i}.mlp.b_out", "d"),
            *_LENS_NORMS,
        ),
    ),
    orientation="lens",
)

PRE_NORM = Naming(
    Convention(
        "pre-LN transformer with fused qkv",
        (
            needed("embed", "tok_emb.weight token_emb.weight", "V d"),
            optional("positions", "pos_emb pos_emb.weight", "n d"),
            needed("unembed", "unembed.weight head.weight", "C d"),
            optional("unembed_bias", "unembed.bias head.bias", "C"),
            optional("norm_final_gain", "ln_f.gamma ln_f.weight", "d"),
            optional("norm_final_offset", "ln_f.beta ln_f.bias", "d"),
        ),
        (
            needed("w_qkv_{i}", "blocks.{i}.attn.qkv.weight", "3*a d"),
            optional("b_qkv_{i}", "blocks.{i}.attn.qkv.bias", "3*a"),
            needed("w_o_{i}", "blocks.{i}.attn.proj.weight", "d a"),
            optional("b_o_{i}", "blocks.{i}.attn.proj.bias", "d"),
            optional("w_in_{i}", "blocks.{i}.mlp.up.weight", "m d"),
            optional("b_in_{i}", "blocks.{i}.mlp.up.bias", "m"),
            optional("w_out_{i}", "blocks.{i}.mlp.down.weight", "d m"),
            optional("b_out_{i}", "blocks.{i}.mlp.down.bias", "d"),
            optional("norm_attention_gain_{i}", "blocks.{i}.ln1.gamma blocks.{i}.ln1.weight", "d"),
            optional("norm_attention_offset_{i}", "blocks.{i}.ln1.beta blocks.{i}.ln1.bias", "d"),
            optional("norm_mlp_gain_{i}", "blocks.{i}.ln2.gamma blocks.{i}.ln2.weight", "d"),
            optional("norm_mlp_offset_{i}", "blocks.{i}.ln2.beta blocks.{i}.ln2.bias", "d"),
        ),
    ),
    orientation="linear",
    activation="gelu",
)

# One block without an index: its tensors stand among the once-only roles, as block 0.
PLAIN = Naming(
    Convention(
        "plain names",
        (
            needed("embed", "embed.weight", "V d"),
            optional("positions", "pos_embed.weight pos_embed", "n d"),
            needed("unembed", "unembed.weight", "C d"),
            optional("unembed_bias", "unembed.bias", "C"),
            needed("w_q_0", "Wq.weight W_Q.weight", "a d"),
            needed("w_k_0", "Wk.weight W_K.weight", "a d"),
            needed("w_v_0", "Wv.weight W_V.weight", "a d"),
            optional("b_q_0", "Wq.bias W_Q.bias", "a"),
            optional("b_k_0", "Wk.bias W_K.bias", "a"),
            optional("b_v_0", "Wv.bias W_V.bias", "a"),
            needed("w_o_0", "Wo.weight W_O.weight", "d a"),
            optional("b_o_0", "Wo.bias W_O.bias", "d"),
            optional("w_in_0", "mlp_in.weight", "m d"),
            optional("b_in_0", "mlp_in.bias", "m"),
            optional("w_out_0", "mlp_out.weight", "d m"),
            optional("b_out_0", "mlp_out.bias", "d"),
            optional("norm_attention_gain_0", "ln1.weight", "d"),
            optional("norm_attention_offset_0", "ln1.bias", "d"),
            optional("norm_mlp_gain_0", "ln2.weight", "d"),
            optional("norm_mlp_offset_0", "ln2.bias", "d"),
            optional("norm_final_gain", "ln_f.weight", "d"),
            optional("norm_final_offset", "ln_f.bias", "d"),
        ),
    ),
    orientation="linear",
)

NAMINGS = (NANDA, LENS, PRE_NORM, PLAIN)
