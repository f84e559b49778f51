"""The graph of a Keras model as its ``config.json`` describes it; nothing of it is executed.

``keras.saving.load_model`` is not used: it builds Python objects by the names that the file
gives, and its ``safe_mode`` has been got round more than once (CVE-2025-1550, CVE-2026-1462).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from geomdiag.models.settings import Settings

__all__ = ["Call", "Graph", "Layer", "Ref", "UnfitGraphError", "described_model", "read_graph"]

#: More calls than this are no small network, and not worth the time to sort.
MOST_CALLS = 2000


class UnfitGraphError(Exception):
    """Why a model is not one that can be run here."""


@dataclass(frozen=True)
class Ref:
    """What a call of a layer gave."""

    layer: str
    call: int


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer or operation.

    Attributes
    ----------
    name : str
        Its own.
    kind : str
        Class, e.g. ``"Dense"``.
    config : mapping
        Its options.
    stored : str
        What its variables' names begin with in the newer files, e.g. ``"layers.dense_1"``.
    """

    name: str
    kind: str
    config: Mapping[str, Any]
    stored: str


@dataclass(frozen=True, eq=False)
class Call:
    """One use of a layer."""

    layer: Layer
    number: int
    args: Sequence[Any]
    kwargs: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Graph:
    """A model: its inputs in order, its calls in an order in which they can run, its output."""

    layers: Mapping[str, Layer]
    inputs: tuple[Layer, ...]
    calls: tuple[Call, ...]
    output: Ref
    notices: list[str] = field(default_factory=list)


def described_model(settings: Settings) -> Mapping[str, Any] | None:
    """Return the description of a Keras model that the run's configuration holds, or None."""
    layers = settings.get("layers")
    if not isinstance(layers, list) or not layers:
        return None
    if not all(isinstance(one, Mapping) and "class_name" in one for one in layers):
        return None
    ends: dict[str, Any] = {name: settings.get(name) for name in ("input_layers", "output_layers")}
    return {"layers": layers, **{name: end for name, end in ends.items() if end is not None}}


def read_graph(description: Mapping[str, Any]) -> Graph:
    """Return the graph of a functional or sequential model.

    Parameters
    ----------
    description : mapping
        ``layers`` as in the ``config`` of ``config.json``, and for functional models
        ``input_layers`` and ``output_layers``.

    Returns
    -------
    Graph

    Raises
    ------
    UnfitGraphError
        If it is damaged, nested, has several outputs or is no graph that ends.
    """
    try:
        return _read(description)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, IndexError) as error:
        raise UnfitGraphError(
            f"its description is damaged ({type(error).__name__}: {str(error)[:100]})"
        ) from error


def _read(description: Mapping[str, Any]) -> Graph:
    written = description["layers"]
    layers: dict[str, Layer] = {}
    counts: dict[str, int] = {}
    if len(written) > MOST_CALLS:
        raise UnfitGraphError(f"it has {len(written)} layers; at most {MOST_CALLS} are read")
    for one in written:
        kind, config = str(one["class_name"]), one.get("config") or {}
        name = str(one.get("name") or config.get("name"))
        if "layers" in config:
            raise UnfitGraphError(f"layer {name!r} is a model of its own; write it as one model")
        if name in layers:
            raise UnfitGraphError(f"two layers are called {name!r}")
        plain = _snake(kind)
        number = counts.get(plain, 0)
        counts[plain] = number + 1
        stored = f"layers.{plain}" + (f"_{number}" if number else "")
        layers[name] = Layer(name, kind, config, stored)
    entries = [layers[name] for name in layers if layers[name].kind == "InputLayer"]
    if "input_layers" not in description:
        return _sequential(layers, entries)
    count = sum(len(one["inbound_nodes"]) for one in written)
    if count > MOST_CALLS:
        raise UnfitGraphError(f"it has {count} calls; at most {MOST_CALLS} are read")
    if any(isinstance(node, list) for one in written for node in one["inbound_nodes"]):
        raise UnfitGraphError("it was written by Keras 2; load it with Keras 3 and save it again")
    calls = [
        Call(
            layers[str(one.get("name") or one["config"]["name"])],
            number,
            [_argument(value) for value in node["args"]],
            {key: _argument(value) for key, value in node["kwargs"].items()},
        )
        for one in written
        for number, node in enumerate(one["inbound_nodes"])
    ]
    named = [ref.layer for ref in _refs_of_history(description["input_layers"])]
    outputs = list(_refs_of_history(description["output_layers"]))
    if len(outputs) != 1:
        raise UnfitGraphError(f"it has {len(outputs)} outputs; one expected")
    return Graph(
        layers, tuple(layers[name] for name in named), tuple(_sorted(calls, named)), outputs[0]
    )


def _sequential(layers: Mapping[str, Layer], entries: list[Layer]) -> Graph:
    """Return layers that are passed one after the other."""
    if len(entries) != 1:
        raise UnfitGraphError("a sequential model without an Input; its shape is unknown")
    calls, last = [], Ref(entries[0].name, 0)
    for layer in layers.values():
        if layer.kind != "InputLayer":
            calls.append(Call(layer, 0, [last], {}))
            last = Ref(layer.name, 0)
    return Graph(layers, tuple(entries), tuple(calls), last)


def _snake(kind: str) -> str:
    """Return a class's name as Keras' files write it: ``MultiHeadAttention`` with underscores."""
    name = re.sub(r"\W+", "", kind)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _argument(value: Any) -> Any:
    """Return an argument of a call, tensors as `Ref`."""
    if isinstance(value, Mapping):
        kind, config = value.get("class_name"), value.get("config")
        if kind == "__keras_tensor__":
            name, call, tensor = dict(config or {})["keras_history"]
            if tensor:
                raise UnfitGraphError(f"layer {name!r} gives several tensors; one expected")
            return Ref(str(name), int(call))
        if kind == "__slice__":
            parts = dict(config or {})
            return slice(parts["start"], parts["stop"], parts["step"])
        raise UnfitGraphError(f"an argument of the kind {str(kind)!r} is not known")
    if isinstance(value, list):
        return [_argument(one) for one in value]
    return value


def _refs_of_history(value: Any) -> Iterator[Ref]:
    """Yield what ``input_layers`` or ``output_layers`` name: one triple, or some, nested."""
    if len(value) == 3 and isinstance(value[0], str) and isinstance(value[1], int):
        yield Ref(value[0], value[1])
        return
    for one in value.values() if isinstance(value, Mapping) else value:
        yield from _refs_of_history(one)


def _sorted(calls: list[Call], inputs: list[str]) -> list[Call]:
    """Return calls so that each comes after what it takes."""
    needs = {call: refs(call) for call in calls}
    known = {Ref(name, 0) for name in inputs}
    ordered: list[Call] = []
    waiting = calls
    while waiting:
        ready = [call for call in waiting if known.issuperset(needs[call])]
        if not ready:
            raise UnfitGraphError(
                f"the layer {waiting[0].layer.name!r} waits for its own output, or for none"
            )
        ordered += ready
        known |= {Ref(call.layer.name, call.number) for call in ready}
        done = set(ready)
        waiting = [call for call in waiting if call not in done]
    return ordered


def refs(call: Call) -> list[Ref]:
    """Return what a call takes."""
    found: list[Ref] = []
    waiting: list[Any] = [*call.args, *call.kwargs.values()]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Ref):
            found.append(value)
        elif isinstance(value, list):
            waiting += value
    return found
