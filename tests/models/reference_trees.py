"""Random networks under the names that Flax and Keras give, and plain passes through them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from reference_networks import ACTS, Case, Tensors, lens_state, run_lens
from reference_sequences import drawer, tokens

ATTENTION = "MultiHeadDotProductAttention_0"


def flax_from_lens(state: Tensors, *, flat: bool = False, tied: bool = False) -> Tensors:
    """Store TransformerLens' tensors as linen does, sorted by name as trees come."""
    out = {"Embed_0.embedding": state["embed.W_E"]}
    if "pos_embed.W_pos" in state:
        out["Embed_1.embedding"] = state["pos_embed.W_pos"]
    i = 0
    while f"blocks.{i}.attn.W_Q" in state:
        at, a = ("" if flat else f"Block_{i}."), f"blocks.{i}.attn."
        first = 2 * i if flat else 0
        attention = f"MultiHeadDotProductAttention_{i if flat else 0}"
        for letter, name in zip("QKVO", ("query", "key", "value", "out"), strict=True):
            out[f"{at}{attention}.{name}.kernel"] = (
                state[a + "W_" + letter]
                if letter == "O"
                else state[a + "W_" + letter].transpose(0, 1)
            )
            if a + "b_" + letter in state:
                out[f"{at}{attention}.{name}.bias"] = state[a + "b_" + letter]
        for j, (matrix, bias) in enumerate((("W_in", "b_in"), ("W_out", "b_out"))):
            if f"blocks.{i}.mlp.{matrix}" in state:
                out[f"{at}Dense_{first + j}.kernel"] = state[f"blocks.{i}.mlp.{matrix}"]
                out[f"{at}Dense_{first + j}.bias"] = state[f"blocks.{i}.mlp.{bias}"]
        for j in range(2):
            if f"blocks.{i}.ln{j + 1}.w" in state:
                out[f"{at}LayerNorm_{first + j}.scale"] = state[f"blocks.{i}.ln{j + 1}.w"]
            if f"blocks.{i}.ln{j + 1}.b" in state:
                out[f"{at}LayerNorm_{first + j}.bias"] = state[f"blocks.{i}.ln{j + 1}.b"]
        i += 1
    if "ln_final.w" in state:
        norm = f"LayerNorm_{2 * i}" if flat else "LayerNorm_0"
        out[f"{norm}.scale"] = state["ln_final.w"]
        if "ln_final.b" in state:
            out[f"{norm}.bias"] = state["ln_final.b"]
    if not tied:
        layers = sum(name.endswith("mlp.W_in") for name in state)
        head = f"Dense_{2 * layers}" if flat else "Dense_0"
        out[f"{head}.kernel"] = state["unembed.W_U"]
        out[f"{head}.bias"] = state["unembed.b_U"]
    return dict(sorted(out.items()))


def _flax(
    name: str,
    config: Mapping[str, Any],
    *,
    flat: bool = False,
    tied: bool = False,
    act: str = "relu",
    swap_invariant: bool = False,
    **options: Any,
) -> Case:
    p, seed = 11, sum(map(ord, name))

    def lens() -> Tensors:
        state = lens_state(seed, 12, 12 if tied else 11, **options)
        if tied:
            state["unembed.W_U"] = state["embed.W_E"].T
            del state["unembed.b_U"]
        return state

    def run(stored: Tensors, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return run_lens(lens(), tokens(left, right, p), norms=options.get("norms", ""), act=act)

    return Case(
        name,
        "stacked_transformer",
        p,
        lambda: flax_from_lens(lens(), flat=flat, tied=tied),
        run,
        {"layer_norm_eps": 1e-5, **config},
        swap_invariant,
    )


def _layers(state: Tensors, names: tuple[str, ...], x: torch.Tensor, act: str) -> torch.Tensor:
    """Pass x through (in, out) layers."""
    for index, name in enumerate(names):
        x = ACTS[act](x) if index else x
        x = x @ state[f"{name}.kernel"] + state[f"{name}.bias"]
    return x


def _flax_mlp(name: str, combine: str, act: str, config: Mapping[str, Any]) -> Case:
    # sorted by name the layers stand in another order than they are passed
    names = ("Dense_2", "Dense_10", "Dense_11") if combine == "sum" else ("inner", "hidden", "top")

    def state() -> Tensors:
        draw = drawer(sum(map(ord, name)))
        sizes = [24 if combine == "concatenate" else 12, 20, 18, 11]
        out = {"Embed_0.embedding": draw(11, 12, scale=1.0)}
        for layer, into, size in zip(names, sizes[:-1], sizes[1:], strict=True):
            out[f"{layer}.kernel"] = draw(into, size)
            out[f"{layer}.bias"] = draw(size)
        return dict(sorted(out.items()))

    def run(state: Tensors, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        a, b = (state["Embed_0.embedding"][one] for one in (left, right))
        x = {"sum": a + b, "mean": (a + b) / 2, "concatenate": torch.cat([a, b], 1)}[combine]
        return _layers(state, names, x, act)

    return Case(name, "embedding_mlp", 11, state, run, config, combine != "concatenate")


def _onehot(name: str, ends: tuple[str, str], layers: tuple[str, str]) -> Case:
    """A one-hot network under Flax' names or Keras'."""

    def state() -> Tensors:
        draw = drawer(sum(map(ord, name)))
        out = {}
        for layer, shape in zip(layers, ((22, 20), (20, 11)), strict=True):
            out[layer + ends[0]] = draw(*shape)
            out[layer + ends[1]] = draw(shape[1])
        return dict(sorted(out.items()))

    def run(state: Tensors, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        first, second = (state[layer + ends[0]] for layer in layers)
        x = first[left] + first[right + 11] + state[layers[0] + ends[1]]
        return torch.relu(x) @ second + state[layers[1] + ends[1]]

    return Case(name, "onehot_mlp", 11, state, run, separate=True)


def _tensor(layer: str, call: int = 0) -> dict[str, Any]:
    """Return a tensor as Keras' descriptions write it."""
    return {"class_name": "__keras_tensor__", "config": {"keras_history": [layer, call, 0]}}


def _layer(
    kind: str, name: str, *calls: list[Any], config: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    return {
        "class_name": kind,
        "name": name,
        "config": {"name": name, **(config or {})},
        "inbound_nodes": [{"args": args, "kwargs": {}} for args in calls],
    }


def keras_description(join: str) -> dict[str, Any]:
    """Return the graph of: tokens, a shared table, joined, two dense layers."""
    all_rows = {"class_name": "__slice__", "config": {"start": None, "stop": None, "step": None}}
    together = [[_tensor("table", 0), _tensor("table", 1)]]
    return {
        "keras": {
            "layers": [
                _layer("InputLayer", "tokens", config={"batch_shape": [None, 2], "dtype": "int32"}),
                _layer("GetItem", "left", [_tensor("tokens"), [all_rows, 0]]),
                _layer("GetItem", "right", [_tensor("tokens"), [all_rows, 1]]),
                _layer("Embedding", "table", [_tensor("left")], [_tensor("right")]),
                _layer({"join": "Concatenate"}.get(join, "Average"), "join", together),
                _layer("Dense", "hidden", [_tensor("join")], config={"activation": "relu"}),
                _layer("Dense", "out", [_tensor("hidden")], config={"activation": "linear"}),
            ],
            "input_layers": ["tokens", 0, 0],
            "output_layers": ["out", 0, 0],
        }
    }


def _keras(name: str, join: str) -> Case:
    def state() -> Tensors:
        draw = drawer(sum(map(ord, name)))
        out = {"layers.embedding.vars.0": draw(11, 8, scale=1.0)}
        for layer, shape in (("dense", (16 if join == "join" else 8, 20)), ("dense_1", (20, 11))):
            out[f"layers.{layer}.vars.0"] = draw(*shape)
            out[f"layers.{layer}.vars.1"] = draw(shape[1])
        return out

    def run(state: Tensors, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        a, b = (state["layers.embedding.vars.0"][one] for one in (left, right))
        x = torch.cat([a, b], 1) if join == "join" else (a + b) / 2
        x = torch.relu(x @ state["layers.dense.vars.0"] + state["layers.dense.vars.1"])
        return x @ state["layers.dense_1.vars.0"] + state["layers.dense_1.vars.1"]

    config = keras_description(join)
    return Case(name, "keras_graph", 11, state, run, config, join != "join")


KERAS_CASES = [_keras("keras-shared", "join"), _keras("keras-average", "average")]
CASES = [
    *KERAS_CASES,
    _flax("flax-pre-norm", {"activation": "gelu"}, act="gelu_new", blocks=2, norms="LN"),
    _flax("flax-rms", {"causal": True}, blocks=2, norms="RMS"),
    _flax("flax-one-block", {}, flat=True, norms="LN"),
    _flax("flax-in-one-module", {"causal": True}, flat=True, norms="LN", blocks=3),
    _flax("flax-no-norms", {}, flat=True),
    _flax("flax-tied", {}, tied=True, norms="LN", blocks=2),
    _flax("flax-attention-only", {}, flat=True, mlp=False),
    _flax("flax-no-positions", {}, context=None, swap_invariant=True),
    _flax_mlp("flax-mlp", "concatenate", "relu", {}),
    _flax_mlp("flax-mlp-sum", "sum", "gelu_new", {"activation": "gelu"}),
    _flax_mlp("flax-mlp-mean", "mean", "tanh", {"activation": "tanh", "combine": "mean"}),
    _onehot("flax-onehot", (".kernel", ".bias"), ("Dense_0", "Dense_1")),
    _onehot("keras-onehot", (".vars.0", ".vars.1"), ("layers.dense", "layers.dense_1")),
]
