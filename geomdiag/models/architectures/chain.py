"""Finding a chain of linear layers among tensors whose names follow no known convention.

Whether PyTorch, Flax or Keras stored them, the ends of their names tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise, permutations

from geomdiag.checkpoints.series import TensorSpec
from geomdiag.models.architectures.keras.config import described_model
from geomdiag.models.architectures.stacks.flax_tree import natural, plain_names
from geomdiag.models.recognition import BUFFERS, NearMiss
from geomdiag.models.settings import Settings

__all__ = ["TORCH", "Chain", "Dialect", "find_chain", "sorted_by_name"]

#: Orders of more layers than these are not tried.
_MOST_SORTED = 7
_EMBEDDING = re.compile(r"(^|[._])(tok(en)?_?)?emb(ed(ding)?s?)?\d*([._]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Dialect:
    """How a framework calls and lays out a linear layer.

    Attributes
    ----------
    name : str
        For messages.
    weight, bias : str
        Ends of their names.
    forward : bool
        Whether weights are (in, out) rather than (out, in).
    ordered : bool
        Whether layers are stored in the order they are passed, unless a format sorts them.
    """

    name: str
    weight: str
    bias: str
    forward: bool
    ordered: bool

    @property
    def input_axis(self) -> str:
        """What the features a layer takes are in its weight."""
        return "rows" if self.forward else "columns"

    @property
    def output_axis(self) -> str:
        """What the features a layer gives are in its weight."""
        return "columns" if self.forward else "rows"


TORCH = Dialect("torch.nn", "weight", "bias", forward=False, ordered=True)
#: Trees come sorted by name.
FLAX = Dialect("Flax", "kernel", "bias", forward=True, ordered=False)
#: Keras' older files, whose tables are called ``embeddings``.
KERNELS = Dialect("Keras", "kernel", "bias", forward=True, ordered=False)
#: Keras' files without the names of variables.
NUMBERED = Dialect("Keras", ".vars.0", ".vars.1", forward=True, ordered=False)


@dataclass(frozen=True)
class Chain:
    """Embeddings, and linear layers in the order they are passed.

    Attributes
    ----------
    embeddings : tuple of str
        Names of the (vocabulary, d) tables: none, one, or one an operand.
    weights, biases : tuple of str or None
        Names of each layer's weight and bias.
    dialect : Dialect
        Whose names they are.
    shapes : tuple of (int, int)
        Each layer's outputs and inputs.
    """

    embeddings: tuple[str, ...]
    weights: tuple[str, ...]
    biases: tuple[str | None, ...]
    dialect: Dialect
    shapes: tuple[tuple[int, int], ...]

    @property
    def inputs(self) -> int:
        """Features that the first layer takes."""
        return self.shapes[0][1]

    @property
    def classes(self) -> int:
        """Features that the last layer gives."""
        return self.shapes[-1][0]

    def roles(self) -> dict[str, str]:
        """Return part to tensor name."""
        found = dict(zip(("embedding", "embedding_right"), self.embeddings, strict=False))
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            found[f"weight_{index}"] = weight
            if bias is not None:
                found[f"bias_{index}"] = bias
        return found


def find_chain(
    specs: Mapping[str, TensorSpec], *, embedded: bool, settings: Settings
) -> Chain | NearMiss:
    """Read the tensors as (embeddings and) linear layers, each fitting the one before.

    Parameters
    ----------
    specs : mapping of str to TensorSpec
        A checkpoint's tensors, in stored order.
    embedded : bool
        Whether a token embedding is expected, told by its name.
    settings : Settings
        The run's configuration; a Keras model that it describes is not guessed at.

    Returns
    -------
    Chain or NearMiss
    """
    kind = "embedding and linear layers" if embedded else "linear layers on one-hot inputs"
    stored = plain_names(specs)
    shapes = {name: tuple(specs[of].shape) for name, of in stored.items()}
    names = [name for name in shapes if not BUFFERS.search(name)]
    dialect = _dialect(names)
    if dialect in (NUMBERED, KERNELS) and described_model(settings) is not None:
        return NearMiss(0, f"{kind}: the configuration describes a Keras model")
    embeddings = [name for name in names if _EMBEDDING.search(name) and len(shapes[name]) == 2]
    if not dialect.ordered:
        embeddings.sort(key=natural)
    weights = [
        name
        for name in names
        if name not in embeddings and name.endswith(dialect.weight) and len(shapes[name]) == 2
    ]
    paired = {name: name[: -len(dialect.weight)] + dialect.bias for name in weights}
    placed = {*embeddings, *weights, *paired.values()}
    strangers = [name for name in names if name not in placed]
    if strangers:
        shape = shapes[strangers[0]]
        return NearMiss(0, f"{kind}: tensor {strangers[0]!r} of shape {shape} has no place in it")
    if embedded and len(embeddings) not in (1, 2):
        found = ", ".join(map(repr, embeddings)) or "none"
        return NearMiss(0, f"{kind}: one or two token embeddings expected, found {found}")
    if not embedded and embeddings:
        return NearMiss(0, f"{kind}: no token embedding expected, found {embeddings[0]!r}")
    if len(weights) < (1 if embedded else 2):
        return NearMiss(
            0, f"{kind}: {len(weights)} matrices named '...{dialect.weight}' found, too few"
        )
    sizes = {name: shapes[name][::-1] if dialect.forward else shapes[name] for name in weights}
    if not dialect.ordered or sorted_by_name(specs):
        weights, unsure = _in_order(weights, sizes)
        if unsure:
            own = " (a torch.save file keeps theirs)" if dialect.ordered else ""
            return NearMiss(
                0.5 * len(weights),
                f"{kind}: the layers {', '.join(weights)} fit in more than one order, and the file "
                f"has them in the order of their names{own}",
            )
    score = 0.5 * len(weights)
    for before, after in pairwise(weights):
        out, into = sizes[before][0], sizes[after][1]
        if out != into:
            return NearMiss(
                score,
                f"{kind}: tensor {after!r} should have {out} {dialect.input_axis}, as {before!r} "
                f"has {dialect.output_axis}, and has {into}",
            )
    biases = [paired[name] if paired[name] in shapes else None for name in weights]
    for weight, bias in zip(weights, biases, strict=True):
        if bias is not None and shapes[bias] != (sizes[weight][0],):
            return NearMiss(
                score,
                f"{kind}: tensor {bias!r} should have shape ({sizes[weight][0]},) and has "
                f"{shapes[bias]}",
            )
    return Chain(
        tuple(stored[name] for name in embeddings),
        tuple(stored[name] for name in weights),
        tuple(None if bias is None else stored[bias] for bias in biases),
        dialect,
        tuple((sizes[name][0], sizes[name][1]) for name in weights),
    )


def sorted_by_name(names: Iterable[str]) -> bool:
    """Tell whether the order of tensors is that of their names, which says nothing of layers.

    Safetensors and HDF5 sort so; ``state_dict`` has a layer's weight before its bias.
    """
    stored = list(names)
    return stored == sorted(stored)


def _dialect(names: list[str]) -> Dialect:
    if any(name.endswith(NUMBERED.weight) for name in names):
        return NUMBERED
    if not any(name.endswith(FLAX.weight) for name in names):
        return TORCH
    return KERNELS if any(name.endswith("embeddings") for name in names) else FLAX


def _in_order(weights: list[str], sizes: Mapping[str, tuple[int, ...]]) -> tuple[list[str], bool]:
    """Return layers in an order in which each fits the one before, and whether others do too.

    Names decide where several do: ``Dense_0``, ``Dense_1``, ... in order of their numbers.
    """
    named = sorted(weights, key=natural)
    if len(weights) > _MOST_SORTED:
        return named, len({_unnumbered(name) for name in named}) > 2  # hidden ones and a last
    fitting = [
        list(order)
        for order in permutations(named)
        if all(sizes[one][0] == sizes[two][1] for one, two in pairwise(order))
    ]
    if not fitting:
        return named, False
    # the first of them in order of names; among names that differ in a number it leaves no doubt
    kinds = [[_unnumbered(name) for name in order] for order in fitting]
    return fitting[0], any(other != kinds[0] for other in kinds)


def _unnumbered(name: str) -> str:
    return re.sub(r"_?\d+", "", name)
