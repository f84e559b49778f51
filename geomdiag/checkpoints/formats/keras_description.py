"""What a Keras file says about its model: layers and connections, read as data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["MOST_BYTES", "described"]

#: Longer descriptions than this are not read.
MOST_BYTES = 16 << 20
#: Ends of options that matter to training alone.
_TRAINING = (
    *("initializer", "regularizer", "constraint", "build_config", "shared_object_id"),
    *("registered_name", "trainable", "module"),
)


def described(text: bytes | str) -> dict[str, Any]:
    """Return a model's description as a part of a run's configuration.

    Parameters
    ----------
    text : bytes or str
        ``config.json`` of a ``.keras`` archive, or the attribute ``model_config`` of an older
        ``.h5`` file.

    Returns
    -------
    dict
        ``{"keras": {"name": ..., "layers": [...], "input_layers": ..., "output_layers": ...}}``
        without what matters to training alone; empty if it describes no layers or is damaged,
        since the weights can be read without it.
    """
    if len(text) > MOST_BYTES:
        return {}
    try:
        model = json.loads(text)
        config = model["config"]
        if not isinstance(config["layers"], list):
            return {}
        names = ("name", "layers", "input_layers", "output_layers")
        return {"keras": {name: _pruned(config[name]) for name in names if name in config}}
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}


def _pruned(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _pruned(inner) for key, inner in value.items() if not key.endswith(_TRAINING)}
    return [_pruned(inner) for inner in value] if isinstance(value, list) else value
