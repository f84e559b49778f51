"""Keras models run from the graph in their own description, without Keras.

Nothing has to be assumed: ``config.json`` says layers, activations and connections. The graph
is run once on shapes alone before any value is read, and then in torch, so that gradients with
respect to embedding vectors come for nothing and no Keras backend is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomdiag.checkpoints.series import TensorSpec
from geomdiag.errors import ArchitectureError
from geomdiag.models.architectures.keras.config import (
    Call,
    Graph,
    Layer,
    Ref,
    UnfitGraphError,
    described_model,
    read_graph,
)
from geomdiag.models.architectures.keras.layers import (
    HEEDING_MASKS,
    IDENTITIES,
    NONLINEAR,
    finish_dense,
    run,
)
from geomdiag.models.architectures.keras.tokens import (
    OneHots,
    TableRows,
    Tokens,
    apply,
    inputs_of,
)
from geomdiag.models.architectures.sequence import SequenceNetwork
from geomdiag.models.layout import Sizes, TokenLayout, plan
from geomdiag.models.recognition import Architecture, Match, NearMiss
from geomdiag.models.settings import Settings
from geomdiag.models.tensors import read_tensors, restrict
from geomdiag.tasks.contract import Task

__all__ = ["ARCHITECTURE"]

#: More numbers than this of one layer for one input are no small network.
MOST_FEATURES = 1 << 20
_SOFTMAX = ("Softmax", "Activation")
#: ``read(place, rows)``: the vectors of the input at `place`, which is read from these rows.
_Read = Callable[[int, TableRows], Tensor]


@dataclass(eq=False)
class _Model:
    """A graph and the names of its variables."""

    graph: Graph
    specs: Mapping[str, TensorSpec]
    roles: dict[str, str] = field(default_factory=dict)
    tables: dict[int, TableRows] = field(default_factory=dict)
    one_hot: bool = False

    def variable(self, layer: Layer, index: int, leaf: str, inside: tuple[str, str] | None) -> str:
        """Return the stored name of a layer's variable, or an empty string."""
        new, old = (f"{one}." for one in inside) if inside else ("", "")
        name = f"{layer.stored}.{new}vars.{index}"
        if name in self.specs:
            return name
        older = (
            name
            for name in self.specs
            if name.startswith(f"{layer.name}.") and name.endswith(f".{old}{leaf}")
        )
        return next(older, "")

    def run(self, weights: Mapping[str, Tensor], read: _Read) -> Tensor:
        """Return the output; `weights` by stored name."""
        values: dict[Ref, Any] = {
            Ref(layer.name, 0): value
            for layer, value in zip(self.graph.inputs, inputs_of(self.graph.inputs), strict=True)
        }
        for call in self.graph.calls:
            args = [_filled(value, values) for value in call.args]
            kwargs = {key: _filled(value, values) for key, value in call.kwargs.items()}
            try:
                result = self._result(call, args, kwargs, weights, read)
            except (RuntimeError, ValueError, TypeError, KeyError, IndexError) as error:
                text = (str(error).splitlines() or [""])[0][:160]
                raise UnfitGraphError(
                    f"layer {call.layer.name!r} ({call.layer.kind}) cannot be run: {text}"
                ) from error
            if isinstance(result, Tensor) and result[:1].numel() > MOST_FEATURES:
                raise UnfitGraphError(
                    f"layer {call.layer.name!r} ({call.layer.kind}) gives {result[:1].numel()} "
                    f"numbers for each input; at most {MOST_FEATURES} are computed"
                )
            values[Ref(call.layer.name, call.number)] = result
        output = values.get(self.graph.output)
        if not isinstance(output, Tensor) or output.ndim != 2:
            raise UnfitGraphError("its output is not one vector of logits for each input")
        return output

    def _result(
        self,
        call: Call,
        args: list[Any],
        kwargs: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        read: _Read,
    ) -> Any:
        layer = call.layer

        def get(index: int, leaf: str, inside: tuple[str, str] | None = None) -> Tensor | None:
            name = self.variable(layer, index, leaf, inside)
            if name:
                part = f"{layer.name}.{inside[0] + '.' if inside else ''}{leaf}"
                self.roles.setdefault(part, name)
            return weights[name] if name else None

        first = args[0][0] if args and isinstance(args[0], list) else (args or [None])[0]
        if layer.kind == "Embedding" and isinstance(first, Tokens):
            return self._embedded(layer, first, get, read)
        if layer.kind == "Dense" and isinstance(first, OneHots) and first.form != "rows":
            return self._selected(layer, first, get, read)
        if isinstance(first, Tokens | OneHots):
            return apply(call, args)
        return run(layer, args, kwargs, get)

    def _embedded(self, layer: Layer, tokens: Tokens, get: Any, read: _Read) -> Tensor:
        if get(0, "embeddings") is None:
            raise UnfitGraphError(f"layer {layer.name!r} (Embedding) has no stored table")
        name = self.variable(layer, 0, "embeddings", None)
        rows = TableRows(name, 0, self.specs[name].shape[0])
        places = tokens.places.reshape(-1).tolist()
        vectors = torch.stack([read(place, rows) for place in places], dim=1)
        return vectors.reshape(len(vectors), *tokens.places.shape, vectors.shape[-1])

    def _selected(self, layer: Layer, given: OneHots, get: Any, read: _Read) -> Tensor:
        """Add a row of the kernel for each input: a dense layer of one-hot vectors."""
        kernel = get(0, "kernel")
        if kernel is None or kernel.shape[0] != given.width:
            raise UnfitGraphError(
                f"layer {layer.name!r} (Dense) should have a kernel of {given.width} rows"
            )
        self.one_hot = True
        name = self.variable(layer, 0, "kernel", None)
        side = given.form == "side"
        starts = [given.size * k if side else 0 for k in range(len(given.places))]
        pairs = zip(given.places, starts, strict=True)
        shares = [read(place, TableRows(name, start, given.size)) for place, start in pairs]
        return finish_dense(layer, torch.stack(shares).sum(0), get)

    def head(self) -> Layer:
        """Return the last layer, which must be dense; a softmax after it is taken off."""
        graph = self.graph
        by_output = {Ref(call.layer.name, call.number): call for call in graph.calls}
        call = by_output.get(graph.output)
        softmax = False
        if call is not None and call.layer.kind in _SOFTMAX and call.args:
            kind, config = call.layer.kind, call.layer.config
            if kind == "Softmax" or config.get("activation") in ("softmax", "linear"):
                softmax = kind == "Softmax" or config.get("activation") == "softmax"
                before = call.args[0]
                call = by_output.get(before) if isinstance(before, Ref) else None
        if call is None or call.layer.kind != "Dense":
            raise UnfitGraphError("its last layer is not Dense (or a softmax on one)")
        layer = call.layer
        if layer.config.get("activation") == "softmax":
            softmax = True
            layer = Layer(
                layer.name, layer.kind, {**layer.config, "activation": "linear"}, layer.stored
            )
        calls = tuple(
            Call(layer, one.number, one.args, one.kwargs) if one is call else one
            for one in graph.calls
        )
        output = Ref(call.layer.name, call.number)
        if softmax:
            graph.notices.append("the model ends in a softmax: its logits are taken before it")
        self.graph = Graph(graph.layers, graph.inputs, calls, output, graph.notices)
        if sum(one.layer.name == layer.name for one in calls) > 1:
            raise UnfitGraphError(f"its last layer {layer.name!r} is used more than once")
        return layer

    def on_neurons(self) -> bool:
        """Tell whether what the last layer reads are units with a non-linearity."""
        by_output = {Ref(call.layer.name, call.number): call for call in self.graph.calls}
        call = by_output[self.graph.output]
        while True:
            before = call.args[0] if call.args else None
            found = by_output.get(before) if isinstance(before, Ref) else None
            if found is None:
                return False
            call = found
            if call.layer.kind not in IDENTITIES:
                said = call.layer.config.get("activation", "linear")
                return call.layer.kind in NONLINEAR or said not in ("linear", None)


def _refuse_masks(graph: Graph) -> None:
    """Raise where a mask of an embedding, of which a description says no more, would count."""
    masked = next((one for one in graph.layers.values() if one.config.get("mask_zero")), None)
    heeding = next((one for one in graph.layers.values() if one.kind in HEEDING_MASKS), None)
    if masked is not None and heeding is not None:
        raise UnfitGraphError(
            f"layer {masked.name!r} has mask_zero = True, by which {heeding.name!r} "
            f"({heeding.kind}) leaves token 0 out, which is not run here"
        )


def _filled(value: Any, values: Mapping[Ref, Any]) -> Any:
    if isinstance(value, Ref):
        return values[value]
    return [_filled(one, values) for one in value] if isinstance(value, list) else value


class _Architecture(Architecture):
    name = "keras_graph"
    title = "functional or sequential Keras model, run by the graph in its config.json"

    def match(self, specs: Mapping[str, TensorSpec], settings: Settings) -> Match | NearMiss:
        description = described_model(settings)
        if description is None:
            return NearMiss(0, "Keras model: no configuration describes its layers")
        try:
            model = _Model(read_graph(description), specs)
            _refuse_masks(model.graph)
            head = model.head()
            output = self._on_shapes(model)
            self._all_placed(model)
        except UnfitGraphError as unfit:
            return NearMiss(20, f"Keras model: {unfit}")
        tables = [model.tables.get(place) for place in range(len(model.tables))]
        counts = {rows.count for rows in tables if rows is not None}
        if None in tables or len(tables) < 2 or len(counts) != 1:
            return NearMiss(
                20,
                f"Keras model: {len(model.tables)} tokens are read, from tables of "
                f"{sorted(counts)} rows; two or more tokens from tables of one height expected",
            )
        rows = [one for one in tables if one is not None]
        sizes = Sizes(
            rows[0].count,
            output.shape[1],
            None if model.one_hot else len(rows),
            sequence=not model.one_hot,
        )
        return self._matched(model, head, rows, sizes, settings)

    def _on_shapes(self, model: _Model) -> Tensor:
        """Run the graph without values; note which input is read from which table."""
        weights = {
            name: torch.empty(spec.shape, device="meta") for name, spec in model.specs.items()
        }

        def read(place: int, rows: TableRows) -> Tensor:
            if model.tables.setdefault(place, rows) != rows:
                raise UnfitGraphError(f"token {place} is read from two tables")
            return torch.empty(2, weights[rows.variable].shape[1], device="meta")

        return model.run(weights, read)

    def _all_placed(self, model: _Model) -> None:
        used = set(model.roles.values())
        left = [name for name in model.specs if name not in used and "seed_generator" not in name]
        if left:
            raise UnfitGraphError(
                f"tensor {left[0]!r} of shape {tuple(model.specs[left[0]].shape)} has no place in "
                "it"
            )

    def _matched(
        self,
        model: _Model,
        head: Layer,
        tables: Sequence[TableRows],
        sizes: Sizes,
        settings: Settings,
    ) -> Match:
        roles = {"embedding": tables[0].variable}
        others = [one for one in tables if one.variable != tables[0].variable]
        if others:
            roles["embedding_right"] = others[0].variable
        kernel = model.variable(head, 0, "kernel", None)
        bias = model.variable(head, 1, "bias", None)
        roles |= {part: name for part, name in model.roles.items() if name not in roles.values()}

        def build(tensors: Mapping[str, NDArray[Any]], task: Task) -> SequenceNetwork:
            layout = plan(task, sizes, settings, [])
            if len(layout.slots) != len(tables):
                raise ArchitectureError(
                    f"the Keras model reads {len(tables)} tokens, and inputs of {task.name} are "
                    f"{len(layout.slots)}. Check the task, or give the model yourself with "
                    "--model package.module:factory."
                )
            weights = read_tensors(tensors, roles.values())
            weights[kernel] = restrict(weights[kernel], 1, task.classes)
            if bias:
                weights[bias] = restrict(weights[bias], 0, task.classes)

            def forward(vectors: Sequence[Tensor]) -> Tensor:
                return model.run(weights, lambda place, _: vectors[place])

            stored = {
                one: weights[one.variable][one.start : one.start + one.count] for one in tables
            }
            return SequenceNetwork(
                self.name,
                forward=forward,
                tables=tuple(stored[one] for one in tables),
                layout=layout,
                unembed=weights[kernel],
                roles=roles,
                neurons=model.on_neurons(),
                token_neurons=model.one_hot,
                swap_invariant=_blind(model, weights, tables, layout),
            )

        return Match(
            architecture=self.name,
            convention="Keras",
            roles=roles,
            sizes=sizes,
            build=build,
            notices=tuple(model.graph.notices),
        )


def _blind(
    model: _Model, weights: Mapping[str, Tensor], tables: Sequence[TableRows], layout: TokenLayout
) -> bool:
    """Tell whether exchanging the operands cannot change the answer, whatever the weights.

    Any weights do to find out: those of the checkpoint might be dead.
    """
    places = [i for i, slot in enumerate(layout.slots) if slot.operand is not None]
    if len(places) != 2 or len({tables[place] for place in places}) > 1 or not layout.shared:
        return False
    rng = np.random.default_rng(0)
    drawn = {
        name: torch.from_numpy(0.5 + np.abs(rng.normal(size=value.shape)))
        * torch.from_numpy(rng.choice([-1.0, 1.0], size=value.shape))
        / max(1, value.shape[0]) ** 0.5
        for name, value in weights.items()
    }
    for name in drawn:  # variances of a batch normalisation may not be negative
        drawn[name] = drawn[name].abs() if drawn[name].ndim == 1 else drawn[name]
    width = drawn[tables[0].variable].shape[1]
    vectors = [torch.from_numpy(rng.normal(size=(4, width))) for _ in layout.slots]
    swapped = list(vectors)
    left, right = places
    swapped[left], swapped[right] = vectors[right], vectors[left]
    one = model.run(drawn, lambda place, _: vectors[place])
    other = model.run(drawn, lambda place, _: swapped[place])
    return bool(torch.allclose(one, other, rtol=1e-9, atol=1e-9))


ARCHITECTURE = _Architecture()
