"""Where two records of a run's settings contradict each other."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

from geomdiag.checkpoints.beside.curves import is_of_a_moment

__all__ = ["contradiction"]

#: Differing settings that a notice lists.
_SHOWN = 5
_LONGEST = 40
#: Mappings nested deeper are no settings.
_DEEPEST = 16


def contradiction(
    used: Mapping[str, Any], other: Mapping[str, Any], used_from: str, other_from: str
) -> str:
    """Return, in words, which settings two records give differently; empty where none.

    Only settings that both name are compared: numbers by value (``1e-3`` is text in YAML),
    mappings key by key. Steps and losses, which change as the run goes on, are left out.

    Parameters
    ----------
    used, other : mapping
        The record that counts, and the one that does not.
    used_from, other_from : str
        Where they were found.
    """
    try:
        found = list(_differing(used, other, ""))
    except RecursionError:  # no settings
        return ""
    if not found:
        return ""
    listed = ", ".join(
        f"{key} is {_short(one)}, not {_short(two)}" for key, one, two in found[:_SHOWN]
    )
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return (
        f"{used_from} and {other_from} contradict each other; the first counts, so {listed}{more}"
    )


def _differing(
    one: Mapping[str, Any], two: Mapping[str, Any], prefix: str
) -> Iterator[tuple[str, Any, Any]]:
    for key, value in one.items():
        if key not in two or is_of_a_moment(str(key)):
            continue
        if isinstance(value, Mapping) and isinstance(two[key], Mapping):
            if prefix.count(".") > _DEEPEST:
                raise RecursionError
            yield from _differing(value, two[key], f"{prefix}{key}.")
        elif not _same(value, two[key]):
            yield f"{prefix}{key}", value, two[key]


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        return len(one) == len(two) and all(map(_same, one, two))
    numbers = [_number(one), _number(two)]
    if None not in numbers:
        return numbers[0] == numbers[1] or (one != one and two != two)
    if isinstance(one, str) != isinstance(two, str):  # a tracker keeps text: "[8, 8]", "None"
        return str(one) == str(two)
    return type(one) is type(two) and bool(one == two)


def _number(value: Any) -> float | None:
    if not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _short(value: Any) -> str:
    text = reprlib.repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
