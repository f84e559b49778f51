"""Transformers in Flax trees (https://flax.readthedocs.io), linen and nnx, by what holds what.

A tree tells modules by their leaves: ``kernel`` (in, out) and ``bias`` of a dense layer,
``embedding``, ``scale`` of a normalisation, and an attention by its four dense layers
``query``, ``key``, ``value`` (d, h, e) and ``out`` (h, e, d). A block is what stands beside an
attention in one module; the rest is embedding, positions, last normalisation and read-out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from geomdiag.checkpoints.series import TensorSpec
from geomdiag.models.recognition import NearMiss

__all__ = ["FlaxTree", "natural", "plain_names", "read_tree"]

_KIND = "Flax transformer"
_PROJECTIONS = ("query", "key", "value", "out")
_POSITION = re.compile(r"(^|[._])(pos(?!t)|wpe)|Pos(ition|Emb|Enc)")
_ATTENTION = re.compile(r"at+(n|ention)", re.IGNORECASE)
_AFTER = re.compile(r"post_?at[^.]*$", re.IGNORECASE)
_MLP = re.compile(r"mlp|ff|feed", re.IGNORECASE)
_FINAL = re.compile(r"final|last|(ln|norm)_?(f|out)\b", re.IGNORECASE)
_HEAD = re.compile(r"head|logit|unembed|output|read_?out|classif|decode|vocab", re.IGNORECASE)
#: State of random generators that nnx keeps beside the weights.
_RANDOM = re.compile(r"(^|\.)(rngs|rng)\.")


def natural(name: str) -> tuple[tuple[bool, int, str], ...]:
    """Return a key that sorts ``Dense_2`` before ``Dense_10``."""
    parts = re.split(r"(\d+)", name)
    return tuple((part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts)


def plain_names(specs: Mapping[str, TensorSpec]) -> dict[str, str]:
    """Return the names in a tree without what storing nnx state adds, to the stored ones."""
    kept = [name for name in specs if not _RANDOM.search(name)]
    if kept and all(name.endswith(".value") for name in kept):
        return {name[: -len(".value")]: name for name in kept}
    return {name: name for name in kept}


def _alike(paths: Iterable[str]) -> bool:
    """Tell whether names differ in numbers alone, which then are their order."""
    return len({re.sub(r"_?\d+", "", path) for path in paths}) == 1


def _in_place(norms: list[str]) -> list[str]:
    """Return the attention's normalisation and the MLP's."""
    names = [path.rpartition(".")[2] for path in norms]
    of_mlp = [bool(_MLP.search(name)) for name in names]
    of_attention = [bool(_ATTENTION.search(name)) for name in names]
    if of_mlp[0] != of_mlp[1]:
        return norms[:: 1 if of_mlp[1] else -1]
    if of_attention[0] != of_attention[1]:
        one, other = norms if of_attention[0] else norms[::-1]
        # what stands after the attention, beside one before it, is the MLP's
        return [other, one] if _AFTER.search(one) else [one, other]
    if not _alike(names):
        raise _Unfit(f"which of {' and '.join(norms)} comes first is not in their names")
    return norms


@dataclass(eq=False)
class FlaxTree:
    """A transformer's parts.

    Attributes
    ----------
    roles : dict of str to str
        Part to (plain) name: ``embed``, ``positions``, ``kernel_q_0``, ``scale_final``, ….
    blocks : int
        How many.
    vocabulary, width, classes : int
    positions : int or None
        Rows of the table of positions.
    into : int
        Features the read-out takes.
    notices : list of str
        What had to be assumed.
    """

    roles: dict[str, str]
    blocks: int
    vocabulary: int
    width: int
    classes: int
    positions: int | None
    into: int
    notices: list[str] = field(default_factory=list)


class _Unfit(Exception):
    """Why the tensors are no such transformer."""


def read_tree(shapes: Mapping[str, tuple[int, ...]]) -> FlaxTree | NearMiss:
    """Read names and shapes as a transformer.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Shapes by plain name.

    Returns
    -------
    FlaxTree or NearMiss
    """
    modules: dict[str, dict[str, str]] = {}
    for name in shapes:
        path, _, leaf = name.rpartition(".")
        modules.setdefault(path, {})[leaf] = name
    attentions = sorted(
        {
            path.rpartition(".")[0]
            for path in modules
            if path.rpartition(".")[2] == "query" and "kernel" in modules[path]
        },
        key=natural,
    )
    if not attentions:
        return NearMiss(0, f"{_KIND}: no attention (query.kernel, key.kernel, ...) found")
    try:
        return _Reader(shapes, modules, attentions).read()
    except _Unfit as unfit:
        return NearMiss(2, f"{_KIND}: {unfit}")


class _Reader:
    """Gives every tensor its part."""

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        modules: dict[str, dict[str, str]],
        attentions: list[str],
    ) -> None:
        self.shapes, self.modules, self.attentions = shapes, modules, attentions
        self.roles: dict[str, str] = {}
        self.notices: list[str] = []
        self.width = 0

    def read(self) -> FlaxTree:
        table, positions = self._tables()
        vocabulary, self.width = self.shapes[table]
        groups: dict[str, list[str]] = {}
        for path in self.attentions:
            groups.setdefault(path.rpartition(".")[0], []).append(path)
        index = 0
        for parent, attentions in groups.items():
            beside = self._beside(parent)
            if not parent or len(attentions) > 1:
                beside = self._without_ends(beside, len(attentions))
            norms, dense = (
                self._shared_out(paths, len(attentions))
                for paths in (self._norms(beside), self._dense(beside))
            )
            for number, attention in enumerate(attentions):
                self._attention(index, attention)
                self._block(index, norms[number], dense[number])
                index += 1
        into, classes = self._ends()
        self._all_placed()
        return FlaxTree(
            roles=self.roles,
            blocks=index,
            vocabulary=vocabulary,
            width=self.width,
            classes=classes or vocabulary,
            positions=positions,
            into=into,
            notices=self.notices,
        )

    def _tables(self) -> tuple[str, int | None]:
        """Return the embedding's name and the number of positions, which get their roles."""
        tables = sorted(
            (leaves["embedding"] for leaves in self.modules.values() if "embedding" in leaves),
            key=natural,
        )
        tables = [name for name in tables if len(self.shapes[name]) == 2]
        placed = [name for name in self.shapes if _POSITION.search(name)]
        words = [name for name in tables if name not in placed]
        if len(words) == 2 and not placed:
            placed = words[1:]
            self.notices.append(f"{words[1]!r} is taken for the table of positions")
            words = words[:1]
        if len(words) != 1 or len(placed) > 1:
            raise _Unfit(
                "one token embedding and at most one table of positions expected, found "
                + (", ".join(map(repr, (*words, *placed))) or "none")
            )
        self.roles["embed"] = words[0]
        if not placed:
            self.notices.append(
                "no table of positions is stored: none is added (a sinusoidal one would leave no "
                "trace)"
            )
            return words[0], None
        shape = self.shapes[placed[0]]
        rows, width = shape[-2:] if len(shape) > 1 else (0, 0)
        if (
            width != self.shapes[words[0]][1]
            or len(shape) > 3
            or (len(shape) == 3 and shape[0] > 1)
        ):
            raise _Unfit(
                f"tensor {placed[0]!r} should have shape (n, {self.shapes[words[0]][1]}) and has "
                f"{shape}"
            )
        self.roles["positions"] = placed[0]
        return words[0], rows

    def _attention(self, index: int, path: str) -> None:
        heads: tuple[int, ...] = ()
        for letter, projection in zip("qkvo", _PROJECTIONS, strict=True):
            leaves = self.modules.get(f"{path}.{projection}" if path else projection, {})
            if "kernel" not in leaves:
                raise _Unfit(f"tensor '{path}.{projection}.kernel' is missing")
            shape = self.shapes[leaves["kernel"]]
            heads = heads or shape[1:]
            wanted = (*heads, self.width) if letter == "o" else (self.width, *heads)
            if shape != wanted or len(shape) != 3:
                raise _Unfit(f"tensor {leaves['kernel']!r} should have shape {wanted}, has {shape}")
            self.roles[f"kernel_{letter}_{index}"] = leaves["kernel"]
            self._bias(leaves, f"{letter}_{index}", wanted[2:] if letter == "o" else heads)

    def _bias(self, leaves: Mapping[str, str], part: str, wanted: tuple[int, ...]) -> None:
        if "bias" in leaves:
            if self.shapes[leaves["bias"]] != wanted:
                raise _Unfit(
                    f"tensor {leaves['bias']!r} should have shape {wanted} and has "
                    f"{self.shapes[leaves['bias']]}"
                )
            self.roles[f"bias_{part}"] = leaves["bias"]

    def _beside(self, parent: str) -> list[str]:
        """Return what stands in a module, however deep, but for attentions; in natural order.

        At the top, but for the blocks too.
        """
        inside = parent + "." if parent else ""
        blocks = [path.rpartition(".")[0] for path in self.attentions] if not parent else []
        out = [*self.attentions, *(path for path in blocks if path)]
        return sorted(
            (
                path
                for path in self.modules
                if path.startswith(inside)
                and not any(path == one or path.startswith(one + ".") for one in out)
            ),
            key=natural,
        )

    def _norms(self, paths: Iterable[str]) -> list[str]:
        return [path for path in paths if "scale" in self.modules[path]]

    def _dense(self, paths: Iterable[str]) -> list[str]:
        return [path for path in paths if "kernel" in self.modules[path]]

    def _without_ends(self, beside: list[str], blocks: int) -> list[str]:
        """Leave out the last normalisation and the read-out, which stand beside such blocks."""
        norms, dense = self._norms(beside), self._dense(beside)
        ends = sorted(norms, key=lambda path: bool(_FINAL.search(path)))[2 * blocks :]
        if len(norms) == 1:
            ends = norms
        if len(dense) in (1, 2 * blocks + 1):
            ends.append(max(dense, key=lambda path: self._end(dense, path, blocks)))
        return [path for path in beside if path not in ends]

    def _end(self, dense: list[str], path: str, blocks: int) -> tuple[bool, bool, int]:
        """Return how likely a layer is the read-out: by shapes, by name, by place."""
        fits = blocks > 1 or self._pairs(dense, path)
        return fits, bool(_HEAD.search(path)), dense.index(path)

    def _shared_out(self, paths: list[str], blocks: int) -> list[list[str]]:
        """Give each block of a module its two, in the order of their names."""
        if blocks > 1 and len({re.sub(r"\d+", "", path) for path in paths}) > 1:
            raise _Unfit(
                f"{blocks} blocks stand in one module, and which of {', '.join(paths)} belong to "
                "which is not in their names"
            )
        if blocks == 1 or not paths:
            return [paths] * blocks
        if len(paths) != 2 * blocks:
            raise _Unfit(
                f"{blocks} blocks stand in one module with {len(paths)} of the kind of {paths[0]}; "
                "two for each (or none) expected"
            )
        return [paths[2 * k : 2 * k + 2] for k in range(blocks)]

    def _pairs(self, dense: list[str], left_out: str) -> bool:
        """Tell whether the others are an MLP that gives back what it takes."""
        shapes = [self.shapes[self.modules[path]["kernel"]] for path in dense if path != left_out]
        wide = [shape for shape in shapes if len(shape) == 2]
        return not wide or any(
            one[0] == self.width and two == one[::-1] for one, two in (wide, wide[::-1])
        )

    def _block(self, index: int, norms: list[str], dense: list[str]) -> None:
        if len(norms) not in (0, 2) or len(dense) not in (0, 2):
            raise _Unfit(
                f"block {index} has {len(norms)} normalisations and {len(dense)} dense layers "
                "beside its attention; two (or none) of each expected"
            )
        if norms and not dense:
            raise _Unfit(
                f"block {index} has two normalisations ({', '.join(norms)}) and no MLP; one of "
                "them may stand after the blocks"
            )
        if norms:
            for part, path in zip(("attention", "mlp"), _in_place(norms), strict=True):
                self._norm(f"{part}_{index}", path)
        if dense:
            first = self.shapes[self.modules[dense[0]]["kernel"]]
            if first == (self.width, self.width) and not _alike(dense):
                raise _Unfit(
                    f"which of the square layers {' and '.join(dense)} comes first is not in their "
                    "names"
                )
            if first[0] != self.width:
                dense.reverse()
            middle = self.shapes[self.modules[dense[0]]["kernel"]][-1]
            self._layer(f"in_{index}", dense[0], (self.width, middle))
            self._layer(f"out_{index}", dense[1], (middle, self.width))

    def _norm(self, part: str, path: str) -> None:
        leaves = self.modules[path]
        if self.shapes[leaves["scale"]] != (self.width,):
            raise _Unfit(
                f"tensor {leaves['scale']!r} should have shape ({self.width},) and has "
                f"{self.shapes[leaves['scale']]}"
            )
        self.roles[f"scale_{part}"] = leaves["scale"]
        self._bias(leaves, part, (self.width,))

    def _layer(self, part: str, path: str, wanted: tuple[int, int]) -> None:
        leaves = self.modules[path]
        if self.shapes[leaves["kernel"]] != wanted:
            raise _Unfit(
                f"tensor {leaves['kernel']!r} should have shape {wanted} and has "
                f"{self.shapes[leaves['kernel']]}"
            )
        self.roles[f"kernel_{part}"] = leaves["kernel"]
        self._bias(leaves, part, wanted[1:])

    def _ends(self) -> tuple[int, int]:
        """Place the last normalisation and the read-out; return the read-out's shape."""
        used = set(self.roles.values())
        rest = [path for path in self._beside("") if not used & set(self.modules[path].values())]
        norms, dense = self._norms(rest), self._dense(rest)
        if len(norms) > 1 or len(dense) > 1:
            raise _Unfit(
                f"{len(norms)} normalisations and {len(dense)} dense layers after the blocks; at "
                "most one of each expected"
            )
        if norms:
            self._norm("final", norms[0])
            if "scale_attention_0" not in self.roles and not _FINAL.search(norms[0]):
                self.notices.append(
                    f"the only normalisation, {norms[0]!r}, is taken to stand after the blocks"
                )
        if not dense:
            self.notices.append("no read-out is stored: the embedding is taken for it, transposed")
            return self.width, 0
        shape = self.shapes[self.modules[dense[0]]["kernel"]]
        if len(shape) != 2 or shape[0] % self.width:
            name = self.modules[dense[0]]["kernel"]
            raise _Unfit(f"tensor {name!r} should have shape ({self.width}, C) and has {shape}")
        self._layer("head", dense[0], (shape[0], shape[1]))
        return shape[0], shape[1]

    def _all_placed(self) -> None:
        used = set(self.roles.values())
        left = [name for name in self.shapes if name not in used]
        if left:
            raise _Unfit(
                f"tensor {left[0]!r} of shape {self.shapes[left[0]]} has no place in it"
                + (f" (nor have {len(left) - 1} more)" if len(left) > 1 else "")
            )
