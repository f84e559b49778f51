"""What Keras layers do to inputs before an embedding turns them into vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomdiag.models.architectures.keras.config import Call, Layer, UnfitGraphError

__all__ = ["OneHots", "TableRows", "Tokens", "apply", "inputs_of"]

#: More tokens than this in one example are no small network.
MOST_TOKENS = 4096


@dataclass(frozen=True)
class TableRows:
    """Rows of a variable that an input's tokens name: from `start`, `count` of them."""

    variable: str
    start: int
    count: int


@dataclass(frozen=True, eq=False)
class Tokens:
    """Token numbers of one example: which input stands where."""

    places: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class OneHots:
    """Inputs as one-hot vectors, (inputs, size) before they are put side by side or added."""

    places: tuple[int, ...]
    size: int
    #: ``rows``: (inputs, size); ``side``: (inputs * size,); ``sum``: (size,).
    form: str

    @property
    def width(self) -> int:
        """Features of the last axis."""
        return self.size * (len(self.places) if self.form == "side" else 1)


def inputs_of(layers: Sequence[Layer]) -> list[Tokens | OneHots]:
    """Return what the model's inputs stand for, in order.

    Raises
    ------
    UnfitGraphError
        If their shapes are not those of tokens or of two one-hot vectors.
    """
    found: list[Tokens | OneHots] = []
    place = 0
    for layer in layers:
        config = layer.config
        shape = config.get("batch_shape") or config.get("batch_input_shape") or [None]
        rest = tuple(shape[1:])
        if any(not isinstance(size, int) or size < 1 for size in rest) or len(rest) > 2:
            raise UnfitGraphError(
                f"the input {layer.name!r} has shape {shape}; fixed sizes expected"
            )
        kind = config.get("dtype")
        kind = kind.get("config", {}).get("name") if isinstance(kind, dict) else kind
        count = math.prod(rest)
        if str(kind).startswith("float") and count > 2 and math.prod(rest[:-1]) <= MOST_TOKENS:
            found.append(_one_hots(layer, rest, place, alone=len(layers) == 1))
            place += len(found[-1].places)
            continue
        if count > MOST_TOKENS:
            raise UnfitGraphError(
                f"the input {layer.name!r} holds {count} tokens; at most {MOST_TOKENS} are read"
            )
        found.append(Tokens(np.arange(place, place + count).reshape(rest)))
        place += count
    return found


def _one_hots(layer: Layer, shape: tuple[int, ...], place: int, *, alone: bool) -> OneHots:
    if len(shape) == 2:
        return OneHots(tuple(range(place, place + shape[0])), shape[1], "rows")
    if not alone:
        return OneHots((place,), shape[0], "side")
    if shape[0] % 2:
        raise UnfitGraphError(
            f"the input {layer.name!r} has {shape[0]} features; two one-hot vectors side by side "
            "would be an even number"
        )
    return OneHots((place, place + 1), shape[0] // 2, "side")


def apply(call: Call, args: list[Any]) -> Tokens | OneHots:
    """Return what a layer makes of inputs that are no vectors yet.

    Raises
    ------
    UnfitGraphError
        If it does more to them than select and arrange.
    """
    kind, config = call.layer.kind, call.layer.config
    first = args[0][0] if isinstance(args[0], list) else args[0]
    if isinstance(first, Tokens):
        places = _arranged(kind, config, args)
        if places is not None and places.size <= MOST_TOKENS:
            return Tokens(places)
        if kind in ("OneHot", "CategoryEncoding"):
            size = config.get("num_classes") or config.get("num_tokens")
            many = config.get("output_mode", "one_hot") != "one_hot"
            if isinstance(size, int) and config.get("axis", -1) in (-1, None) and not many:
                form = "rows" if first.places.ndim else "side"
                return OneHots(tuple(first.places.reshape(-1).tolist()), size, form)
    elif isinstance(first, OneHots):
        found = _joined(kind, config, args, first)
        if found is not None:
            return found
    raise UnfitGraphError(
        f"layer {call.layer.name!r} ({kind}) is applied to the inputs before an embedding, which "
        "is not known"
    )


def _arranged(kind: str, config: Any, args: list[Any]) -> NDArray[np.int64] | None:
    values: list[Any] = [one.places for one in (args[0] if isinstance(args[0], list) else args[:1])]
    axis = config.get("axis")
    if kind == "GetItem":
        index = args[1] if isinstance(args[1], list) else [args[1]]
        if not index or index[0] != slice(None, None, None):
            raise UnfitGraphError("inputs are selected along the batch")
        return np.asarray(values[0][tuple(index[1:])])
    if kind in ("Flatten", "Ravel"):
        return np.asarray(values[0].reshape(-1))
    if kind == "Reshape":
        shape = config.get("target_shape") or config["newshape"][1:]
        return np.asarray(values[0].reshape(shape))
    if kind in ("Cast", "Identity", "Dropout"):
        return np.asarray(values[0])
    if kind in ("Squeeze", "ExpandDims") and isinstance(axis, int) and axis:
        change = np.squeeze if kind == "Squeeze" else np.expand_dims
        return np.asarray(change(values[0], axis - 1 if axis > 0 else axis))
    if kind in ("Concatenate", "Stack") and isinstance(axis, int) and axis:
        join = np.concatenate if kind == "Concatenate" else np.stack
        return np.asarray(join(values, axis - 1 if axis > 0 else axis))
    return None


def _joined(kind: str, config: Any, args: list[Any], first: OneHots) -> OneHots | None:
    values: list[OneHots] = args[0] if isinstance(args[0], list) else [*args]
    if not all(isinstance(one, OneHots) and one.size == first.size for one in values):
        return None
    places = tuple(place for one in values for place in one.places)
    if kind in ("Cast", "Identity", "Dropout"):
        return first
    if kind == "Flatten" or (
        kind == "Reshape"
        and (config.get("target_shape") or config["newshape"][1:])
        in ([first.size * len(places)], [-1])
    ):
        return OneHots(places, first.size, "side")
    flat = all(one.form == "side" for one in values)
    if kind == "Concatenate" and config.get("axis") in (-1, 1) and flat:
        return OneHots(places, first.size, "side")
    added = kind == "Add" and flat and all(len(one.places) == 1 for one in values)
    summed = kind == "Sum" and first.form == "rows" and config.get("axis") in (1, [1], -2, [-2])
    if added or summed:
        return OneHots(places, first.size, "sum")
    return None
