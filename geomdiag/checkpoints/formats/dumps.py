"""Dumps: a model's computed parts stored in place of its parameters (docs/dump-format.md)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from geomdiag.checkpoints.beside.curves import STEP_UNITS, standard_name

__all__ = ["ARRAYS", "MARK", "is_scalar_name", "kind_of", "plain_value"]

#: Arrays a dump may hold.
ARRAYS = frozenset(
    {
        "logits",
        "embedding",
        "embedding_right",
        "unembedding",
        "neuron_input",
        "neuron_input_right",
        "neuron_logit",
        "train_mask",
    }
)
#: Name whose value ``"dump"`` marks a dump outright.
MARK = "geomdiag"
_SCALARS = frozenset({MARK, "config", "seed", "task", "loss", "accuracy"})


def is_scalar_name(name: str) -> bool:
    """Return whether `name` is that of a scalar said about the network, not of a tensor."""
    return name in _SCALARS or name in STEP_UNITS or standard_name(name) is not None


def kind_of(names: Iterable[str], metadata: Mapping[str, Any]) -> str:
    """Return ``"dump"`` or ``"state"`` for a file with tensors `names`.

    A dump says so (metadata ``geomdiag`` = ``dump``), or holds ``logits`` or ``embedding``
    and nothing outside the dump vocabulary.
    """
    if str(metadata.get(MARK, "")).lower() == "dump":
        return "dump"
    found = set(names)
    return "dump" if found & {"logits", "embedding"} and found <= ARRAYS else "state"


def plain_value(text: Any) -> Any:
    """Return the number, list or mapping that `text` spells, or `text` itself."""
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
