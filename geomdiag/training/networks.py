"""Networks that many seeds share: every parameter carries a leading dimension of networks.

A forward pass is a handful of batched matrix products over all seeds. What depends on one
symbol and one position only (keys, values, hidden pre-activations) is computed once per symbol
and then looked up for the inputs; only the position that is read out goes through the MLP.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from geomdiag.tasks.contract import Task
from geomdiag.training.recipe import MLPModel, TransformerModel

__all__ = ["StackedMLP", "StackedNetwork", "StackedTransformer", "build_network", "look_up"]


def _square(x: Tensor) -> Tensor:
    return x * x


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": functional.gelu,
    "quadratic": _square,
}


class StackedNetwork(ABC):
    """One architecture for all seeds of a recipe; holds no parameters itself."""

    #: Shape of each parameter of one seed, by the name it is stored under.
    shapes: dict[str, tuple[int, ...]]
    #: What the checkpoints say about the network.
    config: dict[str, Any]
    #: Standard deviation of the initial values of each parameter; 0 for biases.
    scales: dict[str, float]
    #: Token tables: one for all operands, or one for each.
    embeddings: tuple[str, ...]
    #: The parameter whose product with the last activations is the logits.
    readout: str
    #: Matrices between embeddings and read-out: which axes of one seed's parameter run over
    #: the matrix's outputs, and which over its inputs.
    matrices: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    def __init__(self, model: TransformerModel | MLPModel) -> None:
        self.output_scale: float | Tensor = model.output_scale

    def initial(self, seed: int) -> dict[str, NDArray[np.float64]]:
        """Return the initial parameters of one seed.

        Independent Gaussians of mean 0 and standard deviation ``init_scale / sqrt(fan_in)``,
        times ``embedding_init_scale`` in the token tables; zeros for biases. Drawn by NumPy,
        so that they do not depend on the device.

        Parameters
        ----------
        seed : int
            Seed of ``numpy.random.default_rng``.

        Returns
        -------
        dict of str to float array
            One array a parameter, in the order of `shapes`.
        """
        rng = np.random.default_rng(seed)
        return {
            name: rng.standard_normal(shape) * self.scales[name]
            for name, shape in self.shapes.items()
        }

    def with_output_scales(self, scales: Sequence[float], like: Tensor) -> Self:
        """Return the network with an output scale for each of the stacked ones.

        Parameters
        ----------
        scales : sequence of float
            One a network.
        like : tensor
            Gives type and device.
        """
        result = copy.copy(self)
        if any(scale != self.output_scale for scale in scales):
            result.output_scale = like.new_tensor(scales)[:, None, None]
        return result

    def of(self, networks: slice) -> Self:
        """Return the network for some of the stacked ones."""
        result = copy.copy(self)
        if isinstance(self.output_scale, Tensor):
            result.output_scale = self.output_scale[networks]
        return result

    def stored(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the parameters as checkpoints hold them.

        The output scale is multiplied into the read-out, so that whoever runs the checkpoint
        finds the logits that were trained without knowing of the scale.
        """
        return {**parameters, self.readout: self._scaled(parameters[self.readout])}

    def _scaled(self, values: Tensor) -> Tensor:
        """Multiply (networks, a, b) values by the output scale."""
        one = not isinstance(self.output_scale, Tensor) and self.output_scale == 1
        return values if one else values * self.output_scale

    @abstractmethod
    def logits(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Return the logits of the answer position.

        Parameters
        ----------
        parameters : mapping of str to (seeds, ...) tensor
            Stacked parameters, names and shapes as in `shapes`.
        inputs : (arity, seeds, n) int64 tensor
            Symbols of each seed's inputs.

        Returns
        -------
        (seeds, n, classes) tensor
            Multiplied by the output scale.
        """


def look_up(table: Tensor, index: Tensor) -> Tensor:
    """Take rows of a (seeds, rows, width) table by a (seeds, n) index, each seed its own.

    Through ``embedding``, whose gradient is summed in a fixed order on every device.
    """
    seeds, rows, width = table.shape
    offset = torch.arange(seeds, device=index.device)[:, None] * rows
    return functional.embedding(index + offset, table.reshape(seeds * rows, width))


class StackedTransformer(StackedNetwork):
    """Decoder-only transformer of one block without LayerNorm, in TransformerLens' layout.

    Parameters
    ----------
    task : Task
        Gives the vocabulary, the arity and the classes. ``=`` is the symbol after the
        task's own.
    model : TransformerModel
        Sizes.
    """

    def __init__(self, task: Task, model: TransformerModel) -> None:
        super().__init__(model)
        self.model = model
        self.symbols = task.vocabulary
        self.arity = task.inputs.shape[1]
        self.d_head = model.d_model // model.heads
        self._activation = _ACTIVATIONS[model.activation]
        d, m, h, e = model.d_model, model.d_mlp, model.heads, self.d_head
        vocabulary = self.symbols + int(model.equals_token)
        context = self.arity + int(model.equals_token)
        attention, mlp = "blocks.0.attn.", "blocks.0.mlp."
        weights = {
            "embed.W_E": ((vocabulary, d), d),
            "pos_embed.W_pos": ((context, d), d),
            attention + "W_Q": ((h, d, e), d),
            attention + "W_K": ((h, d, e), d),
            attention + "W_V": ((h, d, e), d),
            attention + "W_O": ((h, e, d), d),
            mlp + "W_in": ((d, m), d),
            mlp + "b_in": ((m,), 0),
            mlp + "W_out": ((m, d), m),
            mlp + "b_out": ((d,), 0),
            "unembed.W_U": ((d, task.classes), d),
        }
        if not model.positional:
            del weights["pos_embed.W_pos"]
        if not model.biases:
            del weights[mlp + "b_in"], weights[mlp + "b_out"]
        self.shapes = {name: shape for name, (shape, _) in weights.items()}
        self.scales = {
            name: model.init_scale / math.sqrt(fan_in) if fan_in else 0.0
            for name, (_, fan_in) in weights.items()
        }
        self.embeddings = ("embed.W_E",)
        self.scales["embed.W_E"] *= model.embedding_init_scale
        self.readout = "unembed.W_U"
        # the heads of a matrix stand side by side in it
        self.matrices = {
            **{attention + name: ((0, 2), (1,)) for name in ("W_Q", "W_K", "W_V")},
            attention + "W_O": ((2,), (0, 1)),
            mlp + "W_in": ((1,), (0,)),
            mlp + "W_out": ((1,), (0,)),
        }
        self.config = {
            "architecture": "transformer",
            "n_layers": model.layers,
            "d_model": d,
            "n_heads": h,
            "d_head": e,
            "d_mlp": m,
            "d_vocab": vocabulary,
            "d_vocab_out": task.classes,
            "n_ctx": context,
            "act_fn": model.activation,
            "normalization_type": None,
            "attention_dir": "causal",
            "positional_embedding": model.positional,
            "equals_token": self.symbols if model.equals_token else None,
            "init_scale": model.init_scale,
        }

    def logits(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Return the logits of the answer position; see `StackedNetwork.logits`."""
        embedding = parameters["embed.W_E"]
        positions = parameters.get("pos_embed.W_pos")
        seeds, _, d = embedding.shape
        heads = self.model.heads

        def joined(name: str) -> Tensor:  # [seeds, h, d, e] -> [seeds, d, h·e]
            weight = parameters["blocks.0.attn." + name]
            return weight.permute(0, 2, 1, 3).reshape(seeds, d, d)

        def placed(position: int) -> Tensor:  # every symbol as it enters at `position`
            table = embedding[:, : self.symbols]
            return table if positions is None else table + positions[:, position, None]

        def split(x: Tensor) -> Tensor:  # [..., h·e] -> [..., h, e]
            return x.reshape(*x.shape[:-1], heads, self.d_head)

        keys_values = torch.cat([joined("W_K"), joined("W_V")], dim=-1)
        tables = [torch.bmm(placed(j), keys_values) for j in range(self.arity)]
        if self.model.equals_token:
            last = embedding[:, self.symbols :]
            if positions is not None:
                last = last + positions[:, self.arity :]
            # one query for all inputs, so the scores too depend on one symbol only
            query = split(torch.bmm(last, joined("W_Q")))
            tables.append(torch.bmm(last, keys_values))
            rows = []
            for table in tables:
                score = (split(table[..., :d]) * query).sum(-1)
                rows.append(torch.cat([score, table[..., d:]], dim=-1))
            found = [look_up(row, index) for row, index in zip(rows[:-1], inputs, strict=True)]
            found.append(rows[-1].expand(-1, inputs.shape[-1], -1))
            scores = torch.stack([row[..., :heads] for row in found], dim=-1)
            values = [split(row[..., heads:]) for row in found]
        else:
            found = [look_up(row, index) for row, index in zip(tables, inputs, strict=True)]
            last = placed(self.arity - 1)
            rows_last = torch.cat([last, torch.bmm(last, joined("W_Q"))], dim=-1)
            last, query = torch.split(look_up(rows_last, inputs[-1]), d, dim=-1)
            query = split(query)
            scores = torch.stack([(split(row[..., :d]) * query).sum(-1) for row in found], dim=-1)
            values = [split(row[..., d:]) for row in found]
        attention = torch.softmax(scores / math.sqrt(self.d_head), dim=-1)
        mixed = attention[..., 0, None] * values[0]
        for j in range(1, len(values)):
            mixed = mixed + attention[..., j, None] * values[j]
        output = parameters["blocks.0.attn.W_O"].flatten(1, 2)
        residual = last + torch.bmm(mixed.flatten(-2), output)
        hidden = torch.bmm(residual, parameters["blocks.0.mlp.W_in"])
        if self.model.biases:
            hidden = hidden + parameters["blocks.0.mlp.b_in"][:, None]
            residual = residual + parameters["blocks.0.mlp.b_out"][:, None]
        hidden = self._activation(hidden)
        residual = residual + torch.bmm(hidden, parameters["blocks.0.mlp.W_out"])
        return self._scaled(torch.bmm(residual, parameters["unembed.W_U"]))


class StackedMLP(StackedNetwork):
    """Embedding, one hidden layer without biases, read-out.

    ``concatenate`` is stored under the names of group-composition studies (``W_x``, ``W_y``,
    ``W``, ``W_U``), ``sum`` under ``embed.weight``, ``l1.weight``, ``unembed.weight``.

    Parameters
    ----------
    task : Task
        Gives the vocabulary and the classes; two operands.
    model : MLPModel
        Sizes.
    """

    def __init__(self, task: Task, model: MLPModel) -> None:
        super().__init__(model)
        self.model = model
        self._activation = _ACTIVATIONS[model.activation]
        symbols, e, m = task.vocabulary, model.d_embed, model.d_hidden
        weights: dict[str, tuple[tuple[int, ...], int]]
        if model.combine == "concatenate":
            weights = {
                "W_x": ((symbols, e), e),
                "W_y": ((symbols, e), e),
                "W": ((2 * e, m), 2 * e),
                "W_U": ((m, task.classes), m),
            }
            self.embeddings, self.readout = ("W_x", "W_y"), "W_U"
            self.matrices = {"W": ((1,), (0,))}
        else:
            weights = {
                "embed.weight": ((symbols, e), e),
                "l1.weight": ((m, e), e),
                "unembed.weight": ((task.classes, m), m),
            }
            self.embeddings, self.readout = ("embed.weight",), "unembed.weight"
            self.matrices = {"l1.weight": ((0,), (1,))}
        self.shapes = {name: shape for name, (shape, _) in weights.items()}
        self.scales = {
            name: model.init_scale / math.sqrt(fan_in) for name, (_, fan_in) in weights.items()
        }
        for name in self.embeddings:
            self.scales[name] *= model.embedding_init_scale
        self.config = {
            "architecture": "embedding_mlp",
            "combine": model.combine,
            "d_embed": e,
            "d_hidden": m,
            "d_vocab": symbols,
            "d_vocab_out": task.classes,
            "act_fn": model.activation,
            "init_scale": model.init_scale,
        }

    def logits(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Return the logits; see `StackedNetwork.logits`."""
        left, right = inputs
        if self.model.combine == "concatenate":
            upper, lower = parameters["W"].chunk(2, dim=1)
            before = look_up(torch.bmm(parameters["W_x"], upper), left)
            before = before + look_up(torch.bmm(parameters["W_y"], lower), right)
            head = parameters["W_U"]
        else:
            table = torch.bmm(parameters["embed.weight"], parameters["l1.weight"].mT)
            before = look_up(table, left) + look_up(table, right)
            head = parameters["unembed.weight"].mT
        return self._scaled(torch.bmm(self._activation(before), head))


def build_network(task: Task, model: TransformerModel | MLPModel) -> StackedNetwork:
    """Return the stacked network that a recipe's ``[model]`` describes.

    Parameters
    ----------
    task : Task
        What is learnt.
    model : TransformerModel or MLPModel
        Sizes.
    """
    if isinstance(model, MLPModel):
        return StackedMLP(task, model)
    return StackedTransformer(task, model)
