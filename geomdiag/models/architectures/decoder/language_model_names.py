"""How language models name and orient their tensors."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

from geomdiag.models.architectures.decoder.names import Naming, needed, optional
from geomdiag.models.recognition import Convention, Role
from geomdiag.models.settings import Settings

__all__ = ["NAMINGS", "huggingface_config", "model_type"]


def _gpt2(name: str, *, transposed: bool) -> Convention:
    """Return GPT-2's names; `transposed` as its original layers store matrices, (in, out)."""

    def axes(out: str, into: str) -> str:
        return f"{into} {out}" if transposed else f"{out} {into}"

    def either(leaf: str) -> str:
        return f"transformer.{leaf} {leaf}"

    def norm(part: str, leaf: str) -> tuple[Role, Role]:
        gain, _, block = part.partition("|")
        return (
            needed(f"{gain}_gain{block}", either(f"{leaf}.weight"), "d"),
            optional(f"{gain}_offset{block}", either(f"{leaf}.bias"), "d"),
        )

    def layer(part: str, leaf: str, out: str, into: str) -> tuple[Role, Role]:
        return (
            needed(f"w_{part}_{{i}}", either(f"h.{{i}}.{leaf}.weight"), axes(out, into)),
            optional(f"b_{part}_{{i}}", either(f"h.{{i}}.{leaf}.bias"), out),
        )

    return Convention(
        name,
        (
            needed("embed", either("wte.weight"), "V d"),
            needed("positions", either("wpe.weight"), "n d"),
            optional("unembed", "lm_head.weight", "C d"),
            *norm("norm_final|", "ln_f"),
        ),
        (
            *layer("qkv", "attn.c_attn", "3*a", "d"),
            *layer("o", "attn.c_proj", "d", "a"),
            *layer("in", "mlp.c_fc", "m", "d"),
            *layer("out", "mlp.c_proj", "d", "m"),
            *norm("norm_attention|_{i}", "h.{i}.ln_1"),
            *norm("norm_mlp|_{i}", "h.{i}.ln_2"),
        ),
    )


def _neox() -> Convention:
    block = "gpt_neox.layers.{i}."

    def norm(part: str, name: str) -> tuple[Role, Role]:
        return (
            needed(part.replace("|", "_gain"), f"{name}.weight", "d"),
            needed(part.replace("|", "_offset"), f"{name}.bias", "d"),
        )

    return Convention(
        "GPT-NeoX",
        (
            needed("embed", "gpt_neox.embed_in.weight", "V d"),
            optional("unembed", "embed_out.weight lm_head.weight", "C d"),
            *norm("norm_final|", "gpt_neox.final_layer_norm"),
        ),
        (
            needed("w_qkv_{i}", block + "attention.query_key_value.weight", "3*a d"),
            optional("b_qkv_{i}", block + "attention.query_key_value.bias", "3*a"),
            needed("w_o_{i}", block + "attention.dense.weight", "d a"),
            optional("b_o_{i}", block + "attention.dense.bias", "d"),
            needed("w_in_{i}", block + "mlp.dense_h_to_4h.weight", "m d"),
            needed("b_in_{i}", block + "mlp.dense_h_to_4h.bias", "m"),
            needed("w_out_{i}", block + "mlp.dense_4h_to_h.weight", "d m"),
            needed("b_out_{i}", block + "mlp.dense_4h_to_h.bias", "d"),
            *norm("norm_attention|_{i}", block + "input_layernorm"),
            *norm("norm_mlp|_{i}", block + "post_attention_layernorm"),
        ),
    )


def _any(*parts: str) -> str:
    """Return all joints of the alternatives in `parts`, each separated by spaces."""
    return " ".join("".join(joint) for joint in product(*(part.split() for part in parts)))


def _llama() -> Convention:
    """Return the names of Llama and Qwen, and of those who write such a model themselves."""
    block = "model.layers.{i}. layers.{i}. blocks.{i}. trf_blocks.{i}."
    attention = "self_attn. attn. attention. att."
    mlp = "mlp. ffn. feed_forward. ff."

    def heads(letter: str, names: str, size: str) -> tuple[Role, Role]:
        named = _any(block, attention, names)
        return (
            needed(f"w_{letter}_{{i}}", _any(named, ".weight"), f"{size} d"),
            optional(f"b_{letter}_{{i}}", _any(named, ".bias"), size),
        )

    def layer(part: str, names: str, out: str, into: str, *, there: bool) -> tuple[Role, Role]:
        named = _any(block, mlp, names)
        role = needed if there else optional
        return (
            role(f"w_{part}_{{i}}", _any(named, ".weight"), f"{out} {into}"),
            optional(f"b_{part}_{{i}}", _any(named, ".bias"), out),
        )

    def gain(part: str, *names: str) -> Role:
        return needed(part, _any(*names, ".weight .scale .gamma"), "d")

    def head_gain(letter: str) -> Role:
        named = _any(block, attention, f"{letter}_norm", ".weight .scale .gamma")
        return optional(f"norm_{letter}_gain_{{i}}", named, "e")

    return Convention(
        "Llama",
        (
            needed(
                "embed",
                _any(
                    "model.embed_tokens embed_tokens embedding token_embedding tok_emb token_emb",
                    ".weight",
                ),
                "V d",
            ),
            optional("unembed", _any("lm_head out_head output head unembed", ".weight"), "C d"),
            gain("norm_final_gain", "model.norm norm final_norm norm_f norm_final"),
        ),
        (
            *heads("q", "q_proj W_query", "a"),
            *heads("k", "k_proj W_key", "kv"),
            *heads("v", "v_proj W_value", "kv"),
            needed("w_o_{i}", _any(block, attention, "o_proj out_proj", ".weight"), "d a"),
            optional("b_o_{i}", _any(block, attention, "o_proj out_proj", ".bias"), "d"),
            head_gain("q"),
            head_gain("k"),
            *layer("gate", "gate_proj gate w_gate fc1", "m", "d", there=False),
            *layer("in", "up_proj up w_up fc2", "m", "d", there=True),
            *layer("out", "down_proj down w_down fc3", "d", "m", there=True),
            gain(
                "norm_attention_gain_{i}",
                block,
                "input_layernorm attn_norm attention_norm norm1 norm_1 ln1",
            ),
            gain(
                "norm_mlp_gain_{i}",
                block,
                "post_attention_layernorm mlp_norm ffn_norm norm2 norm_2 ln2",
            ),
        ),
    )


def _meta() -> Convention:
    block = "layers.{i}."
    return Convention(
        "Meta's Llama files",
        (
            needed("embed", "tok_embeddings.weight", "V d"),
            needed("unembed", "output.weight", "C d"),
            needed("norm_final_gain", "norm.weight", "d"),
        ),
        (
            needed("w_q_{i}", block + "attention.wq.weight", "a d"),
            needed("w_k_{i}", block + "attention.wk.weight", "kv d"),
            needed("w_v_{i}", block + "attention.wv.weight", "kv d"),
            needed("w_o_{i}", block + "attention.wo.weight", "d a"),
            needed("w_gate_{i}", block + "feed_forward.w1.weight", "m d"),
            needed("w_in_{i}", block + "feed_forward.w3.weight", "m d"),
            needed("w_out_{i}", block + "feed_forward.w2.weight", "d m"),
            needed("norm_attention_gain_{i}", block + "attention_norm.weight", "d"),
            needed("norm_mlp_gain_{i}", block + "ffn_norm.weight", "d"),
        ),
    )


NAMINGS = (
    Naming(
        _gpt2("GPT-2", transposed=True),
        orientation="conv1d",
        activation="gelu_tanh",
        norm="ln",
        model_types=("gpt2",),
        tied=True,
    ),
    Naming(
        _gpt2("nanoGPT", transposed=False),
        orientation="linear",
        activation="gelu",
        norm="ln",
        model_types=("nanogpt",),
        tied=True,
    ),
    Naming(
        _neox(),
        orientation="linear",
        activation="gelu",
        norm="ln",
        model_types=("gpt_neox",),
        rotary="halves",
        rotary_share=0.25,
        interleaved=True,
        parallel=True,
    ),
    Naming(
        _llama(),
        orientation="linear",
        activation="silu",
        norm="rms",
        eps=1e-6,
        model_types=("llama", "mistral", "qwen2", "qwen3"),
        rotary="halves",
    ),
    # as its authors' code turns them; Hugging Face reorders each head's axes instead
    Naming(
        _meta(),
        orientation="linear",
        activation="silu",
        norm="rms",
        model_types=("llama",),
        rotary="adjacent",
    ),
)


def huggingface_config(settings: Settings) -> Mapping[str, Any]:
    """Return the configuration that Hugging Face's library wrote, empty if there is none."""
    level = settings.level_with("model_type")
    known = {kind for naming in NAMINGS for kind in naming.model_types}
    written = not {"architectures", "transformers_version"}.isdisjoint(level)
    # other projects mean something else by the word
    return level if written or level.get("model_type") in known else {}


def model_type(settings: Settings) -> str | None:
    """Return Hugging Face's name of the model, or None."""
    said = huggingface_config(settings).get("model_type")
    return None if said is None else str(said)
