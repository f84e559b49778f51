"""Where the networks are in the objects that studies save with ``torch.save``, and their steps.

Plain Python over already unpickled objects; nothing here reads files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from geomdiag.checkpoints.beside.curves import STEP_UNITS
from geomdiag.checkpoints.formats.dumps import is_scalar_name
from geomdiag.checkpoints.formats.recorded import (
    CONFIG_KEYS,
    Recorded,
    as_tensor,
    list_of_numbers,
    read_beside,
    read_settings,
    steps_of,
    whole,
)
from geomdiag.checkpoints.formats.unfolding import Unfolding

if TYPE_CHECKING:
    import torch

__all__ = [
    "STATE_KEYS",
    "Layout",
    "State",
    "choose_network",
    "interpret",
    "is_optimiser",
]

#: Keys that hold a network's state, in order of preference.
STATE_KEYS = (
    "model",
    "model_state_dict",
    "state_dict",
    "model_state",
    "net",
    "network",
    "module",
    "weights",
    "params",
    "net_state_dict",
    "ema",
    "ema_state_dict",
    "model_ema",
)
#: Keys of a list of states, each with the keys its steps may have.
SERIES_KEYS: dict[str, tuple[str, ...]] = {
    "state_dicts": ("epochs", "steps", "iterations", "checkpoint_epochs", "checkpoint_steps"),
    "checkpoints": ("checkpoint_epochs", "checkpoint_steps", "epochs", "steps"),
    "model_checkpoints": ("checkpoint_epochs", "checkpoint_steps", "epochs", "steps"),
    "models": ("epochs", "steps"),
    "net": ("net_its", "its"),
}
_NOT_THE_NETWORK = re.compile(r"optim|sched|scaler|rng|random_state|amp$|callbacks|loops")
_SPLIT_KEYS = frozenset(
    f"{part}_{form}"
    for part in ("train", "test")
    for form in ("indices", "idx", "rows", "pairs", "mask", "data", "labels", "inputs")
)


@dataclass(eq=False)
class State:
    """One network state: tensors by name, and what is said about it."""

    tensors: dict[str, torch.Tensor]
    member: str = ""
    steps: dict[str, int] = field(default_factory=dict)


@dataclass(eq=False)
class Layout(Recorded):
    """An unpickled object, understood: its states, and what is recorded beside them."""

    states: list[State] = field(default_factory=list)
    reason: str = ""  # why there is no state


def flatten(
    value: Any, prefix: str = "", depth: int = 0, seen: Unfolding | None = None
) -> dict[str, torch.Tensor]:
    """Return the tensors of nested mappings; names joined by dots, other leaves left out.

    Raises
    ------
    CheckpointError
        If they are nested too deep, or unfold to far more than they are.
    """
    if not isinstance(value, Mapping):
        return {}
    seen = seen or Unfolding()
    seen.enter(len(value), depth)
    result: dict[str, torch.Tensor] = {}
    for key, item in value.items():
        if (tensor := as_tensor(item)) is not None:
            result[f"{prefix}{key}"] = tensor
        elif isinstance(item, Mapping) and isinstance(key, str):
            result |= flatten(item, f"{prefix}{key}.", depth + 1, seen)
    return result


def as_state(value: Any, seen: Unfolding | None = None) -> dict[str, torch.Tensor] | None:
    """Return the tensors of `value` if it is a network's state, else None."""
    if _is_module(value):
        value = value.state_dict()
    if isinstance(value, Mapping) and {"state", "param_groups"} <= set(value):
        return None  # an optimiser's
    tensors = flatten(value, seen=seen)
    return tensors if any(tensor.ndim for tensor in tensors.values()) else None


def _series(
    value: Mapping[str, Any], depth: int, seen: Unfolding
) -> tuple[list[State], str] | None:
    """Return the states of a file that holds a whole series, and what its steps lack."""
    for key, step_keys in SERIES_KEYS.items():
        held = value.get(key)
        if isinstance(held, Mapping) and held and all(_is_int(name) for name in held):
            found = [(int(name), as_state(item, seen)) for name, item in held.items()]
            states = [
                State(tensors, f"{key}[{step}]", {"": step})
                for step, tensors in found
                if tensors is not None
            ]
            if states:
                return states, ""
        if not isinstance(held, list | tuple) or not held:
            continue
        seen.enter(len(held), depth)
        inner = [interpret(item, depth + 1, seen).states for item in held]
        if any(len(states) != 1 for states in inner):
            continue
        entries = [State(states[0].tensors, f"{key}[{i}]") for i, states in enumerate(inner)]
        for step_key in step_keys:
            steps = list_of_numbers(value.get(step_key))
            if steps is not None and len(steps) == len(held) and all(map(whole, steps)):
                unit = "epoch" if "epoch" in step_key or step_key == "net_its" else "step"
                updates = list_of_numbers(value.get("its")) if step_key == "net_its" else None
                for entry, step in zip(entries, steps, strict=True):
                    entry.steps = {unit: int(step)}
                    # Grokfast numbers epochs from 0 and notes the steps done after each.
                    if updates is not None and 0 <= step < len(updates):
                        done = updates[int(step)]
                        entry.steps |= {"step": int(done)} if whole(done) else {}
                return entries, ""
        if all(states[0].steps for states in inner):  # each entry says its own step
            for entry, states in zip(entries, inner, strict=True):
                entry.steps = states[0].steps
            return entries, ""
        for i, entry in enumerate(entries):
            entry.steps = {"": i}
        return entries, (
            f"{key} holds {len(held)} states but none of {', '.join(step_keys)} gives their "
            f"{len(held)} steps; they are numbered 0 to {len(held) - 1}"
        )
    return None


def _is_int(value: Any) -> bool:
    if isinstance(value, str):
        return value.isdecimal() and len(value) < 19
    return isinstance(value, int) and abs(value) < 2**62


def interpret(value: Any, depth: int = 0, seen: Unfolding | None = None) -> Layout:
    """Return what an object saved with ``torch.save`` holds.

    Parameters
    ----------
    value : object
        As unpickled.
    depth : int
        Of the series that it is an entry of.
    seen : Unfolding, optional
        What was gone through to come here.

    Returns
    -------
    Layout
        With an empty `states` and a `reason` when no network is inside.

    Raises
    ------
    CheckpointError
        If its containers are nested too deep, or unfold to far more than they are.
    """
    layout = Layout()
    if _is_module(value):
        _read_own_settings(layout, value)
        value = value.state_dict()
    if not isinstance(value, Mapping):
        layout.reason = f"it holds a {type(value).__name__}, not a state dict"
        return layout
    if not value or set(value) == {"state", "param_groups"}:
        layout.reason = "it holds an optimiser's state" if value else "it holds an empty dict"
        return layout
    value = {str(key): item for key, item in value.items()}
    used: set[str] = set()
    seen = seen or Unfolding()
    if (series := _series(value, depth, seen)) is not None:
        layout.states = series[0]
        if series[1]:
            layout.notices.append(series[1])
        used |= {*SERIES_KEYS, *STATE_KEYS}
    else:
        held = {k: as_state(value[k], seen) for k in STATE_KEYS if _is_container(value.get(k))}
        found = [(key, tensors) for key, tensors in held.items() if tensors is not None]
        if found:
            layout.states = [State(found[0][1])]
            _read_own_settings(layout, value[found[0][0]])
            used |= {key for key, _ in found}
            if len(found) > 1:
                others = ", ".join(key for key, _ in found[1:])
                layout.notices.append(f"analysed is {found[0][0]!r}; also stored: {others}")
        else:
            tensors = {
                name: tensor
                for key, item in value.items()
                if not _is_beside(key, item)
                for name, tensor in flatten({key: item}, seen=seen).items()
            }
            if any(tensor.ndim for tensor in tensors.values()):
                layout.states = [State(tensors)]
                used |= set(tensors)
            else:
                layout.reason = "it holds no tensors of a network: keys " + ", ".join(
                    list(value)[:8]
                )
                return layout
    read_beside(layout, {key: item for key, item in value.items() if key not in used})
    for state in layout.states:
        if not state.steps:
            state.steps = steps_of(layout.metadata)
    return layout


def choose_network(keys: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Return which of the tensors of a nested state are the network's.

    Parameters
    ----------
    keys : mapping of str to tuple of str
        Tensor as stored, to the keys that lead to it.

    Returns
    -------
    dict of str to str
        Name without the wrapping keys (``params``, ``model``, ...), to the tensor as stored.
    """
    chosen = {name: keys[name] for name in keys if not is_optimiser(keys[name][0])}
    while True:  # Flax wraps twice: params/params/Dense_0/kernel
        heads = {path[0] for path in chosen.values() if len(path) > 1}
        home = next((key for key in STATE_KEYS if key in heads), None)
        if home is None:
            return {".".join(path): name for name, path in chosen.items()}
        chosen = {n: path[1:] for n, path in chosen.items() if path[0] == home and path[1:]}


def is_optimiser(key: str) -> bool:
    """Return whether a key names an optimiser's, scheduler's or generator's state."""
    return bool(_NOT_THE_NETWORK.search(key))


def _is_container(value: Any) -> bool:
    return isinstance(value, Mapping) or _is_module(value)


def _is_module(value: Any) -> bool:
    return callable(getattr(value, "state_dict", None))


def _read_own_settings(layout: Layout, value: Any) -> None:
    """Read what a whole module keeps of its settings: ``cfg`` of TransformerLens, ``config``."""
    if _is_module(value):
        held = getattr(value, "__dict__", {})
        for key in CONFIG_KEYS:
            if key in held:
                read_settings(layout, key, held[key])


def _is_beside(key: str, value: Any) -> bool:
    """Return whether a top-level item is said about the network rather than part of it."""
    if isinstance(value, Mapping):
        return is_optimiser(key) or key in CONFIG_KEYS or key == "split"
    return is_scalar_name(key) or key in _SPLIT_KEYS or key in STEP_UNITS
