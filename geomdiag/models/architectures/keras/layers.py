"""The closed set of Keras layers that is run, in torch; everything else is refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from geomdiag.models.architectures.keras.config import Layer, UnfitGraphError

__all__ = [
    "ACTIVATIONS",
    "HEEDING_MASKS",
    "IDENTITIES",
    "KNOWN",
    "NONLINEAR",
    "Variables",
    "finish_dense",
    "run",
]

#: ``get(index, leaf, inside)``: variable `index` of a layer, by its older name `leaf`, of the
#: sub-layer whose newer and older names are `inside`; None if it has none.
Variables = Callable[..., Tensor | None]

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "relu": torch.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "swish": functional.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": functional.softplus,
    "elu": functional.elu,
    "softmax": lambda x: x.softmax(-1),
}
#: Layers that change nothing outside training.
IDENTITIES = frozenset(
    {"Dropout", "SpatialDropout1D", "GaussianNoise", "GaussianDropout", "ActivityRegularization"}
    | {"Identity"}
)
#: Layers that take the mask that a layer before them made, though no call of theirs names it.
HEEDING_MASKS = frozenset(
    {"LSTM", "GRU", "SimpleRNN", "MultiHeadAttention", "GlobalAveragePooling1D", "Softmax"}
)
#: What layers may be called with by name.
_ARGUMENTS = frozenset({"use_causal_mask", "query", "value", "key"})
_POINTWISE: Mapping[str, Callable[[Tensor], Tensor]] = {
    "Relu": torch.relu,
    "Silu": functional.silu,
    "Tanh": torch.tanh,
    "Sigmoid": torch.sigmoid,
    "Square": torch.square,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Softplus": functional.softplus,
}
#: Layers whose outputs are units of their own.
NONLINEAR = frozenset({*_POINTWISE, "ReLU", "Gelu", "LSTM", "GRU", "SimpleRNN"})


def run(layer: Layer, args: list[Any], kwargs: Mapping[str, Any], get: Variables) -> Tensor:
    """Return what a layer gives.

    Parameters
    ----------
    layer : Layer
        With its options.
    args, kwargs : list and mapping
        What it is called with, tensors in place.
    get : callable
        Its variables; see `Variables`.

    Raises
    ------
    UnfitGraphError
        If the layer, or an option of it, is none of those that are run.
    """
    for key, value in kwargs.items():
        if key not in _ARGUMENTS and value is not None and value is not False:
            raise UnfitGraphError(
                f"layer {layer.name!r} ({layer.kind}) is called with {key!r}, which is not run here"
            )
    made = _LAYERS.get(layer.kind)
    if layer.kind in IDENTITIES:
        return _tensor(layer, args[0])
    if layer.kind in _POINTWISE:
        return _POINTWISE[layer.kind](_tensor(layer, args[0]))
    if made is None:
        raise UnfitGraphError(
            f"layer {layer.name!r} is a {layer.kind}, which is not run here (docs/architectures.md "
            "lists the layers that are)"
        )
    return made(layer, args, kwargs, get)


def _tensor(layer: Layer, value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise UnfitGraphError(
            f"layer {layer.name!r} ({layer.kind}) takes {type(value).__name__}, not vectors"
        )
    return value


def _default(layer: Layer, **wanted: Any) -> None:
    """Refuse options that are not as they usually are."""
    for name, value in wanted.items():
        found = layer.config.get(name, value)
        if found != value:
            raise UnfitGraphError(
                f"layer {layer.name!r} ({layer.kind}) has {name} = {found!r}; only {value!r} is run"
            )


def _activation(layer: Layer, name: str = "activation") -> Callable[[Tensor], Tensor]:
    said = layer.config.get(name) or "linear"
    if not isinstance(said, str) or said not in ACTIVATIONS:
        raise UnfitGraphError(
            f"layer {layer.name!r} ({layer.kind}) has {name} = {str(said)[:60]!r}; known are "
            f"{', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[said]


def _needed(layer: Layer, value: Tensor | None, leaf: str) -> Tensor:
    if value is None:
        raise UnfitGraphError(f"layer {layer.name!r} ({layer.kind}) has no stored {leaf}")
    return value


def _dense(layer: Layer, args: list[Any], _: Mapping[str, Any], get: Variables) -> Tensor:
    return finish_dense(
        layer, _tensor(layer, args[0]) @ _needed(layer, get(0, "kernel"), "kernel"), get
    )


def finish_dense(layer: Layer, y: Tensor, get: Variables) -> Tensor:
    """Return what a dense layer makes of its products: bias and activation."""
    _default(layer, quantization_config=None, lora_rank=None)
    bias = get(1, "bias")
    return _activation(layer)(y if bias is None else y + bias)


def _cast(layer: Layer, args: list[Any], _: Mapping[str, Any], __: Variables) -> Tensor:
    if not str(layer.config.get("dtype", "float32")).startswith("float"):
        raise UnfitGraphError(f"layer {layer.name!r} (Cast) makes whole numbers of vectors")
    return _tensor(layer, args[0])


def _activate(layer: Layer, args: list[Any], _: Mapping[str, Any], __: Variables) -> Tensor:
    return _activation(layer)(_tensor(layer, args[0]))


def _relu(layer: Layer, args: list[Any], _: Mapping[str, Any], __: Variables) -> Tensor:
    _default(layer, max_value=None, negative_slope=0.0, threshold=0.0)
    return torch.relu(_tensor(layer, args[0]))


def _gelu(layer: Layer, args: list[Any], _: Mapping[str, Any], __: Variables) -> Tensor:
    rough = layer.config.get("approximate", True)
    return functional.gelu(_tensor(layer, args[0]), approximate="tanh" if rough else "none")


def _softmax(layer: Layer, args: list[Any], _: Mapping[str, Any], __: Variables) -> Tensor:
    axis = layer.config.get("axis", -1)
    return _tensor(layer, args[0]).softmax(axis if isinstance(axis, int) else axis[0])


def _fold(operation: Callable[[Any, Any], Any]) -> Callable[..., Tensor]:
    def folded(layer: Layer, args: list[Any], _: Mapping[str, Any], __: Variables) -> Tensor:
        values = args[0] if isinstance(args[0], list) else args
        result = values[0]
        for value in values[1:]:
            result = operation(result, value)
        return _tensor(layer, result)

    return folded


def _average(layer: Layer, args: list[Any], _: Mapping[str, Any], __: Variables) -> Tensor:
    return torch.stack([_tensor(layer, one) for one in args[0]]).mean(0)


def _concatenate(layer: Layer, args: list[Any], _: Mapping[str, Any], __: Variables) -> Tensor:
    return torch.cat([_tensor(layer, one) for one in args[0]], layer.config.get("axis", -1))


def _stack(layer: Layer, args: list[Any], _: Mapping[str, Any], __: Variables) -> Tensor:
    return torch.stack([_tensor(layer, one) for one in args[0]], layer.config.get("axis", 0))


def _flatten(layer: Layer, args: list[Any], _: Mapping[str, Any], __: Variables) -> Tensor:
    _default(layer, data_format="channels_last")
    return _tensor(layer, args[0]).flatten(1)


def _reshape(layer: Layer, args: list[Any], _: Mapping[str, Any], __: Variables) -> Tensor:
    shape = layer.config.get("target_shape") or layer.config["newshape"][1:]
    x = _tensor(layer, args[0])
    return x.reshape(len(x), *shape)


def _get_item(layer: Layer, args: list[Any], _: Mapping[str, Any], __: Variables) -> Tensor:
    index = tuple(args[1]) if isinstance(args[1], list) else (args[1],)
    if not index or index[0] != slice(None, None, None):
        raise UnfitGraphError(f"layer {layer.name!r} selects along the batch")
    return _tensor(layer, args[0])[index]


def _reduce(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reduced(layer: Layer, args: list[Any], _: Mapping[str, Any], __: Variables) -> Tensor:
        axis = layer.config.get("axis", 1)
        axes = [axis] if isinstance(axis, int) else list(axis or ())
        if not axes or 0 in axes:
            raise UnfitGraphError(f"layer {layer.name!r} ({layer.kind}) reduces the batch")
        return operation(_tensor(layer, args[0]), axes, layer.config.get("keepdims", False))

    return reduced


def _pool(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def pooled(layer: Layer, args: list[Any], _: Mapping[str, Any], __: Variables) -> Tensor:
        _default(layer, data_format="channels_last")
        return operation(_tensor(layer, args[0]), [1], layer.config.get("keepdims", False))

    return pooled


def _axis_is_last(layer: Layer, x: Tensor) -> None:
    axis = layer.config.get("axis", -1)
    if axis not in (-1, [-1], x.ndim - 1, [x.ndim - 1]):
        raise UnfitGraphError(
            f"layer {layer.name!r} ({layer.kind}) has axis = {axis}; only the last"
        )


def _layer_norm(layer: Layer, args: list[Any], _: Mapping[str, Any], get: Variables) -> Tensor:
    x = _tensor(layer, args[0])
    _axis_is_last(layer, x)
    _default(layer, rms_scaling=False)
    scaled, centered = layer.config.get("scale", True), layer.config.get("center", True)
    gain = get(0, "gamma") if scaled else None
    offset = get(int(scaled), "beta") if centered else None
    epsilon = float(layer.config.get("epsilon", 1e-3))
    return functional.layer_norm(x, x.shape[-1:], gain, offset, epsilon)


def _rms_norm(layer: Layer, args: list[Any], _: Mapping[str, Any], get: Variables) -> Tensor:
    x = _tensor(layer, args[0])
    _axis_is_last(layer, x)
    root = torch.rsqrt(x.square().mean(-1, keepdim=True) + float(layer.config.get("epsilon", 1e-6)))
    return x * root * _needed(layer, get(0, "scale"), "scale")


def _batch_norm(layer: Layer, args: list[Any], _: Mapping[str, Any], get: Variables) -> Tensor:
    x = _tensor(layer, args[0])
    _axis_is_last(layer, x)
    leaves = [
        leaf
        for leaf, there in (("gamma", "scale"), ("beta", "center"))
        if layer.config.get(there, True)
    ]
    leaves += ["moving_mean", "moving_variance"]
    found = {leaf: _needed(layer, get(i, leaf), leaf) for i, leaf in enumerate(leaves)}
    spread = torch.sqrt(found["moving_variance"] + float(layer.config.get("epsilon", 1e-3)))
    y = (x - found["moving_mean"]) / spread
    y = y * found["gamma"] if "gamma" in found else y
    return y + found["beta"] if "beta" in found else y


def _attention(layer: Layer, args: list[Any], kwargs: Mapping[str, Any], get: Variables) -> Tensor:
    _default(layer, use_gate=False, sliding_window=None, flash_attention=None)
    names = ("query", "value", "key")
    given = {**dict(zip(names, args, strict=False)), **{n: kwargs[n] for n in names if n in kwargs}}
    if given.get("key") is None:
        given["key"] = given["value"]
    projected = {}
    for name in names:
        x = _tensor(layer, given[name])
        if x.ndim != 3:
            raise UnfitGraphError(
                f"layer {layer.name!r} attends over {x.ndim - 2} axes; one is run"
            )
        inside = (f"{name}_dense", name)
        kernel = _needed(layer, get(0, "kernel", inside), f"{name} kernel")
        bias = get(1, "bias", inside)
        y = torch.einsum("npd,dhe->nphe", x, kernel)
        projected[name] = y if bias is None else y + bias
    scores = torch.einsum("nqhe,nkhe->nhqk", projected["query"], projected["key"])
    scores = scores / math.sqrt(projected["query"].shape[-1])
    if kwargs.get("use_causal_mask"):
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    inside = ("output_dense", "attention_output")
    kernel, bias = _needed(layer, get(0, "kernel", inside), "output kernel"), get(1, "bias", inside)
    y = torch.einsum("nhqk,nkhe,hed->nqd", scores.softmax(-1), projected["value"], kernel)
    return y if bias is None else y + bias


def _recurrent(layer: Layer, args: list[Any], _: Mapping[str, Any], get: Variables) -> Tensor:
    """LSTM, GRU and SimpleRNN, by the equations of Keras' cells."""
    _default(layer, return_state=False, stateful=False)
    if len(args) > 1:
        raise UnfitGraphError(f"layer {layer.name!r} ({layer.kind}) is given a first state")
    x = _tensor(layer, args[0])
    inside = ("cell", f"{_CELLS[layer.kind]}")
    kernel = _needed(layer, get(0, "kernel", inside), "kernel")
    again = _needed(layer, get(1, "recurrent_kernel", inside), "recurrent kernel")
    bias = get(2, "bias", inside)
    bias = kernel.new_zeros(kernel.shape[1]) if bias is None else bias
    if layer.kind == "GRU" and not layer.config.get("reset_after", True):
        raise UnfitGraphError(f"layer {layer.name!r} (GRU) has reset_after = False, not run here")
    first, second = bias if bias.ndim == 2 else (bias, torch.zeros_like(bias))
    act = _activation(layer)
    gate = _activation(layer, "recurrent_activation") if layer.kind != "SimpleRNN" else act
    h = x.new_zeros(len(x), again.shape[0])
    c = h
    back = layer.config.get("go_backwards", False)
    steps = x.flip(1) if back else x
    states = []
    for t in range(x.shape[1]):
        a, b = steps[:, t] @ kernel + first, h @ again + second
        if layer.kind == "LSTM":
            i, f, g, o = (a + b).chunk(4, dim=1)
            c = gate(f) * c + gate(i) * act(g)
            h = gate(o) * act(c)
        elif layer.kind == "GRU":
            (z, r, n), (z2, r2, n2) = a.chunk(3, dim=1), b.chunk(3, dim=1)
            z = gate(z + z2)
            h = z * h + (1 - z) * act(n + gate(r + r2) * n2)
        else:
            h = act(a + b)
        states.append(h)
    return torch.stack(states, 1) if layer.config.get("return_sequences") else h


_CELLS = {"LSTM": "lstm_cell", "GRU": "gru_cell", "SimpleRNN": "simple_rnn_cell"}
_LAYERS: Mapping[str, Callable[..., Tensor]] = {
    "Dense": _dense,
    "Activation": _activate,
    "Cast": _cast,
    "ReLU": _relu,
    "Gelu": _gelu,
    "Softmax": _softmax,
    "Add": _fold(lambda a, b: a + b),
    "Subtract": _fold(lambda a, b: a - b),
    "Multiply": _fold(lambda a, b: a * b),
    "TrueDivide": _fold(lambda a, b: a / b),
    "Divide": _fold(lambda a, b: a / b),
    "Maximum": _fold(torch.maximum),
    "Minimum": _fold(torch.minimum),
    "Average": _average,
    "Concatenate": _concatenate,
    "Stack": _stack,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "GetItem": _get_item,
    "Mean": _reduce(torch.mean),
    "Sum": _reduce(torch.sum),
    "Max": _reduce(torch.amax),
    "GlobalAveragePooling1D": _pool(torch.mean),
    "GlobalMaxPooling1D": _pool(torch.amax),
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "BatchNormalization": _batch_norm,
    "MultiHeadAttention": _attention,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "SimpleRNN": _recurrent,
}
#: Every layer and operation that is run.
KNOWN = frozenset({*_LAYERS, *IDENTITIES, *_POINTWISE, "Embedding", "InputLayer", "OneHot"})
