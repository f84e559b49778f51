"""Random language models of every convention, and a slow forward pass that follows the papers.

Nothing here shares code with the library: heads are run one by one, rotary positions multiply
complex numbers, every position of every input is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from reference_networks import ACTS, Case, Tensors, _drawer


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a language model is made of."""

    d: int = 24
    heads: int = 4
    shared: int = 4
    e: int = 6
    m: int = 30
    blocks: int = 2
    context: int = 0
    norm: str = "rms"
    offsets: bool = False
    biases: bool = False
    head_biases: bool = False
    gated: bool = True
    head_norms: bool = False
    tied: bool = False
    act: str = "silu"
    eps: float = 1e-6
    rope: str = "halves"
    base: float = 10_000.0
    turned: int = 0
    parallel: bool = False


def draw_model(seed: int, vocabulary: int, s: Shape) -> Tensors:
    """Return weights head by head: ``i.q`` (heads, d, e), ``i.o`` (heads, e, d), ..."""
    draw = _drawer(seed)
    state = {"embed": draw(vocabulary, s.d, scale=1.0)}
    if s.context:
        state["positions"] = draw(s.context, s.d, scale=0.7)
    for i in range(s.blocks):
        for letter, count in (("q", s.heads), ("k", s.shared), ("v", s.shared)):
            state[f"{i}.{letter}"] = draw(count, s.d, s.e, scale=s.d**-0.5)
            if s.biases or s.head_biases:
                state[f"{i}.{letter}_b"] = draw(count, s.e, scale=0.5)
        state[f"{i}.o"] = draw(s.heads, s.e, s.d)
        for name, shape in (
            ("in", (s.d, s.m)),
            ("out", (s.m, s.d)),
            *((("gate", (s.d, s.m)),) if s.gated else ()),
        ):
            state[f"{i}.{name}"] = draw(*shape, scale=shape[0] ** -0.5)
            if s.biases:
                state[f"{i}.{name}_b"] = draw(shape[1], scale=0.5)
        if s.biases:
            state[f"{i}.o_b"] = draw(s.d, scale=0.5)
        if s.head_norms:
            state[f"{i}.q_norm"] = draw(s.e, scale=0.5) + 1
            state[f"{i}.k_norm"] = draw(s.e, scale=0.5) + 1
    for norm in ("final", *(f"{i}.{which}" for i in range(s.blocks) for which in ("n1", "n2"))):
        state[norm] = draw(s.d, scale=0.5) + 1
        if s.offsets:
            state[norm + "_b"] = draw(s.d, scale=0.5)
    if not s.tied:
        state["unembed"] = draw(vocabulary, s.d)
    return state


def _turn(x: torch.Tensor, s: Shape) -> torch.Tensor:
    """Turn (n, positions, e) of one head: pairs are complex numbers, multiplied by a phase."""
    width = s.turned or s.e
    half = width // 2
    pairs = [(j, j + half) if s.rope == "halves" else (2 * j, 2 * j + 1) for j in range(half)]
    result = x.clone()
    for j, (real, imaginary) in enumerate(pairs):
        angle = torch.arange(x.shape[1], dtype=x.dtype) * s.base ** (-2 * j / width)
        phase = torch.polar(torch.ones_like(angle), angle)
        turned = torch.complex(x[..., real], x[..., imaginary]) * phase
        result[..., real], result[..., imaginary] = turned.real, turned.imag
    return result


def run_model(state: Tensors, tokens: torch.Tensor, s: Shape) -> torch.Tensor:
    """Return the logits of the last of (n, positions) tokens."""

    def norm(x: torch.Tensor, name: str, kind: str = "") -> torch.Tensor:
        if (kind or s.norm) == "ln":
            x = x - x.mean(-1, keepdim=True)
        x = x / torch.sqrt((x * x).mean(-1, keepdim=True) + s.eps) * state[name]
        return x + state[name + "_b"] if name + "_b" in state else x

    def affine(x: torch.Tensor, name: str, head: int | None = None) -> torch.Tensor:
        weight, bias = state[name], state.get(name + "_b")
        if head is not None:
            weight, bias = weight[head], None if bias is None else bias[head]
        return x @ weight if bias is None else x @ weight + bias

    x = state["embed"][tokens]
    length = tokens.shape[1]
    if "positions" in state:
        x = x + state["positions"][:length]
    later = torch.ones(length, length).triu(1) > 0
    for i in range(s.blocks):
        y = norm(x, f"{i}.n1")
        attended = state.get(f"{i}.o_b", torch.zeros_like(x[0, 0]))
        for head in range(s.heads):
            group = head * s.shared // s.heads
            q = affine(y, f"{i}.q", head)
            k, v = affine(y, f"{i}.k", group), affine(y, f"{i}.v", group)
            if s.head_norms:
                q, k = norm(q, f"{i}.q_norm", "rms"), norm(k, f"{i}.k_norm", "rms")
            if s.rope:
                q, k = _turn(q, s), _turn(k, s)
            scores = (q @ k.mT / np.sqrt(s.e)).masked_fill(later, -torch.inf)
            attended = attended + scores.softmax(-1) @ v @ state[f"{i}.o"][head]
        y = norm(x if s.parallel else x + attended, f"{i}.n2")
        hidden = ACTS[s.act](affine(y, f"{i}.gate" if s.gated else f"{i}.in"))
        if s.gated:
            hidden = hidden * affine(y, f"{i}.in")
        x = x + attended + affine(hidden, f"{i}.out")
    x = norm(x, "final")
    return (x @ state.get("unembed", state["embed"]).T)[:, -1]


def _side(heads: torch.Tensor) -> torch.Tensor:
    """Return (heads, d, e) as torch.nn.Linear stores it, (heads·e, d)."""
    return heads.transpose(1, 2).flatten(0, 1)


def gpt2(state: Tensors, s: Shape, *, transposed: bool, prefix: str = "transformer.") -> Tensors:
    def lay(matrix: torch.Tensor) -> torch.Tensor:
        return (matrix.T if transposed else matrix).contiguous()

    out = {prefix + "wte.weight": state["embed"], prefix + "wpe.weight": state["positions"]}
    for i in range(s.blocks):
        block = f"{prefix}h.{i}."
        out[block + "attn.c_attn.weight"] = lay(
            torch.cat([_side(state[f"{i}.{letter}"]) for letter in "qkv"])
        )
        out[block + "attn.c_proj.weight"] = lay(state[f"{i}.o"].flatten(0, 1).T)
        out[block + "attn.bias"] = torch.ones(1, 1, 4, 4).tril()
        out[block + "mlp.c_fc.weight"] = lay(state[f"{i}.in"].T)
        out[block + "mlp.c_proj.weight"] = lay(state[f"{i}.out"].T)
        if s.biases:
            heads = [state[f"{i}.{letter}_b"].flatten() for letter in "qkv"]
            out[block + "attn.c_attn.bias"] = torch.cat(heads)
            out[block + "attn.c_proj.bias"] = state[f"{i}.o_b"]
            out[block + "mlp.c_fc.bias"] = state[f"{i}.in_b"]
            out[block + "mlp.c_proj.bias"] = state[f"{i}.out_b"]
        _norms(out, state, f"{i}.n1", block + "ln_1")
        _norms(out, state, f"{i}.n2", block + "ln_2")
    _norms(out, state, "final", prefix + "ln_f")
    if "unembed" in state:
        out["lm_head.weight"] = state["unembed"]
    return out


def _norms(out: Tensors, state: Tensors, name: str, stored: str, leaf: str = "weight") -> None:
    out[f"{stored}.{leaf}"] = state[name]
    if name + "_b" in state:
        out[f"{stored}.bias"] = state[name + "_b"]


def neox(state: Tensors, s: Shape) -> Tensors:
    out = {"gpt_neox.embed_in.weight": state["embed"]}
    for i in range(s.blocks):
        block = f"gpt_neox.layers.{i}."
        # head by head: its queries, its keys, its values
        fused = torch.stack([state[f"{i}.{letter}"].transpose(1, 2) for letter in "qkv"], 1)
        out[block + "attention.query_key_value.weight"] = fused.flatten(0, 2)
        biases = torch.stack([state[f"{i}.{letter}_b"] for letter in "qkv"], 1)
        out[block + "attention.query_key_value.bias"] = biases.flatten()
        out[block + "attention.dense.weight"] = state[f"{i}.o"].flatten(0, 1).T
        out[block + "attention.dense.bias"] = state[f"{i}.o_b"]
        out[block + "attention.rotary_emb.inv_freq"] = torch.ones(1)
        out[block + "attention.masked_bias"] = torch.tensor(-1e9)
        for mine, name in (("in", "dense_h_to_4h"), ("out", "dense_4h_to_h")):
            out[f"{block}mlp.{name}.weight"] = state[f"{i}.{mine}"].T
            out[f"{block}mlp.{name}.bias"] = state[f"{i}.{mine}_b"]
        _norms(out, state, f"{i}.n1", block + "input_layernorm")
        _norms(out, state, f"{i}.n2", block + "post_attention_layernorm")
    _norms(out, state, "final", "gpt_neox.final_layer_norm")
    out["embed_out.weight"] = state["unembed"]
    return out


#: What each part is called: Hugging Face; the from-scratch book; a small Qwen of one's own; Meta.
NAMES: Mapping[str, Mapping[str, str]] = {
    "hf": {
        "embed": "model.embed_tokens",
        "unembed": "lm_head",
        "final": "model.norm",
        "block": "model.layers.{i}.",
        "n1": "input_layernorm",
        "n2": "post_attention_layernorm",
        "q": "self_attn.q_proj",
        "k": "self_attn.k_proj",
        "v": "self_attn.v_proj",
        "o": "self_attn.o_proj",
        "q_norm": "self_attn.q_norm",
        "k_norm": "self_attn.k_norm",
        "gate": "mlp.gate_proj",
        "in": "mlp.up_proj",
        "out": "mlp.down_proj",
    },
    "book": {
        "embed": "tok_emb",
        "unembed": "out_head",
        "final": "final_norm",
        "block": "trf_blocks.{i}.",
        "n1": "norm1",
        "n2": "norm2",
        "q": "att.W_query",
        "k": "att.W_key",
        "v": "att.W_value",
        "o": "att.out_proj",
        "q_norm": "att.q_norm",
        "k_norm": "att.k_norm",
        "gate": "ff.fc1",
        "in": "ff.fc2",
        "out": "ff.fc3",
    },
    "own": {
        "embed": "embedding",
        "unembed": "lm_head",
        "final": "final_norm",
        "block": "layers.{i}.",
        "n1": "attn_norm",
        "n2": "mlp_norm",
        "q": "attn.q_proj",
        "k": "attn.k_proj",
        "v": "attn.v_proj",
        "o": "attn.o_proj",
        "q_norm": "attn.q_norm",
        "k_norm": "attn.k_norm",
        "gate": "mlp.gate_proj",
        "in": "mlp.up_proj",
        "out": "mlp.down_proj",
    },
    "meta": {
        "embed": "tok_embeddings",
        "unembed": "output",
        "final": "norm",
        "block": "layers.{i}.",
        "n1": "attention_norm",
        "n2": "ffn_norm",
        "q": "attention.wq",
        "k": "attention.wk",
        "v": "attention.wv",
        "o": "attention.wo",
        "gate": "feed_forward.w1",
        "in": "feed_forward.w3",
        "out": "feed_forward.w2",
    },
}


def llama(state: Tensors, s: Shape, *, names: str = "hf") -> Tensors:
    called = NAMES[names]
    gain = "scale" if names == "book" else "weight"
    out = {called["embed"] + ".weight": state["embed"]}
    for i in range(s.blocks):
        block = called["block"].format(i=i)
        for part in ("q", "k", "v", "o", "gate", "in", "out"):
            if f"{i}.{part}" not in state:
                continue
            matrix = state[f"{i}.{part}"]
            stored = _side(matrix) if part in "qkv" else matrix.flatten(0, -2).T
            out[block + called[part] + ".weight"] = stored
            if f"{i}.{part}_b" in state:
                out[block + called[part] + ".bias"] = state[f"{i}.{part}_b"].flatten()
        for part in ("n1", "n2", "q_norm", "k_norm"):
            if f"{i}.{part}" in state:
                out[f"{block}{called[part]}.{gain}"] = state[f"{i}.{part}"]
    out[f"{called['final']}.{gain}"] = state["final"]
    if "unembed" in state:
        out[called["unembed"] + ".weight"] = state["unembed"]
    if names == "own":
        out["rope.inv_freq"] = torch.ones(3)
        out["rope.cos_cached"] = torch.ones(5, 3)
    return {name: value.contiguous() for name, value in out.items()}


def lens(state: Tensors, s: Shape) -> Tensors:
    """Store as TransformerLens does; its gated MLP adds ``b_in`` behind the product."""
    out = {"embed.W_E": state["embed"], "unembed.W_U": state["unembed"].T}
    for i in range(s.blocks):
        block, under = f"blocks.{i}.", "_" if s.shared < s.heads else ""
        for letter in "qkv":
            mark = "" if letter == "q" else under
            out[f"{block}attn.{mark}W_{letter.upper()}"] = state[f"{i}.{letter}"]
            if f"{i}.{letter}_b" in state:
                out[f"{block}attn.{mark}b_{letter.upper()}"] = state[f"{i}.{letter}_b"]
        out[block + "attn.W_O"] = state[f"{i}.o"]
        out[block + "attn.rotary_sin"] = torch.ones(3, s.e)
        out[block + "attn.rotary_cos"] = torch.ones(3, s.e)
        out[block + "mlp.W_in"], out[block + "mlp.W_out"] = state[f"{i}.in"], state[f"{i}.out"]
        if s.gated:
            out[block + "mlp.W_gate"] = state[f"{i}.gate"]
        out[block + "ln1.w"], out[block + "ln2.w"] = state[f"{i}.n1"], state[f"{i}.n2"]
        if s.offsets:
            out[block + "ln1.b"], out[block + "ln2.b"] = state[f"{i}.n1_b"], state[f"{i}.n2_b"]
    out["ln_final.w"] = state["final"]
    if s.offsets:
        out["ln_final.b"] = state["final_b"]
    return {name: value.contiguous() for name, value in out.items()}


def model_case(
    name: str,
    shape: Shape,
    store: Callable[[Tensors, Shape], Tensors],
    config: Mapping[str, Any],
    *,
    p: int = 11,
) -> Case:
    """Return a case whose inputs are shown as [a, b, =]."""
    seed = sum(map(ord, name))

    def run(stored: Tensors, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        dtype = next(value.dtype for value in stored.values() if value.is_floating_point())
        state = {key: value.to(dtype) for key, value in draw_model(seed, p + 1, shape).items()}
        tokens = torch.stack([left, right, torch.full_like(left, p)], 1)
        return run_model(state, tokens, shape)

    return Case(
        name,
        "decoder_transformer",
        p,
        lambda: store(draw_model(seed, p + 1, shape), shape),
        run,
        config,
    )


_GPT = Shape(
    context=16,
    norm="ln",
    offsets=True,
    biases=True,
    gated=False,
    act="gelu_new",
    eps=1e-5,
    rope="",
    tied=True,
)
_NEOX = Shape(
    norm="ln",
    offsets=True,
    biases=True,
    gated=False,
    act="gelu",
    eps=1e-5,
    e=8,
    turned=2,
    parallel=True,
)
_LENS = Shape(shared=2, eps=1e-5, base=100.0, turned=4)
CASES = [
    model_case(
        "gpt2", _GPT, lambda t, s: gpt2(t, s, transposed=True), {"model_type": "gpt2", "n_head": 4}
    ),
    model_case(
        "gpt2-own-head-no-prefix",
        Shape(**{**_GPT.__dict__, "tied": False, "act": "relu", "blocks": 1}),
        lambda t, s: gpt2(t, s, transposed=True, prefix=""),
        {"model_type": "gpt2", "n_head": 4, "activation_function": "relu"},
    ),
    model_case(
        "nanogpt",
        Shape(**{**_GPT.__dict__, "biases": False, "offsets": False, "act": "gelu"}),
        lambda t, s: gpt2(t, s, transposed=False),
        {"model_args": {"n_layer": 2, "n_head": 4, "n_embd": 24, "block_size": 16, "bias": False}},
    ),
    model_case("neox", _NEOX, neox, {"model_type": "gpt_neox", "num_attention_heads": 4}),
    model_case(
        "neox-serial",
        Shape(**{**_NEOX.__dict__, "parallel": False, "turned": 6, "base": 50.0, "blocks": 1}),
        neox,
        {
            "model_type": "gpt_neox",
            "num_attention_heads": 4,
            "use_parallel_residual": False,
            "rotary_pct": 0.75,
            "rotary_emb_base": 50,
        },
    ),
    model_case(
        "llama",
        Shape(shared=2),
        llama,
        {"model_type": "llama", "num_attention_heads": 4, "num_key_value_heads": 2},
    ),
    model_case(
        "llama-biases-one-block",
        Shape(biases=True, blocks=1, shared=1, base=500.0, eps=1e-3),
        llama,
        {
            "model_type": "llama",
            "num_attention_heads": 4,
            "rms_norm_eps": 1e-3,
            "rope_parameters": {"rope_theta": 500.0, "rope_type": "default"},
        },
    ),
    model_case(
        "qwen2",
        Shape(head_biases=True, shared=2, tied=True),
        llama,
        {"model_type": "qwen2", "num_attention_heads": 4, "tie_word_embeddings": True},
    ),
    model_case(
        "qwen3",
        Shape(head_norms=True, shared=2, e=10),
        llama,
        {"model_type": "qwen3", "num_attention_heads": 4, "head_dim": 10},
    ),
    model_case(
        "book-qwen",
        Shape(head_norms=True, shared=2, base=1e6),
        lambda t, s: llama(t, s, names="book"),
        {"cfg": {"n_heads": 4, "n_kv_groups": 2, "rope_base": 1e6}},
    ),
    model_case(
        "own-qwen",
        Shape(shared=2, tied=True, blocks=3),
        lambda t, s: llama(t, s, names="own"),
        {"model_cfg": {"n_heads": 4, "n_kv_heads": 2, "d_model": 24, "rope_theta": 10000.0}},
    ),
    model_case(
        "meta-llama",
        Shape(rope="adjacent", shared=2, base=5e5, eps=1e-5),
        lambda t, s: llama(t, s, names="meta"),
        {"n_heads": 4, "n_kv_heads": 2, "norm_eps": 1e-5, "rope_theta": 500000.0},
    ),
    model_case(
        "lens-rotary-shared",
        _LENS,
        lens,
        {
            "normalization_type": "RMS",
            "act_fn": "silu",
            "gated_mlp": True,
            "positional_embedding_type": "rotary",
            "rotary_dim": 4,
            "rotary_base": 100,
        },
    ),
    model_case(
        "lens-adjacent-parallel",
        Shape(
            shared=4,
            norm="ln",
            offsets=True,
            eps=1e-5,
            gated=False,
            rope="adjacent",
            parallel=True,
            blocks=1,
            act="gelu",
        ),
        lens,
        {
            "normalization_type": "LN",
            "act_fn": "gelu",
            "parallel_attn_mlp": True,
            "positional_embedding_type": "rotary",
            "rotary_adjacent_pairs": True,
        },
    ),
]
