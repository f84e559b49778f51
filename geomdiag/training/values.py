"""Checks of one value of a recipe; every message names the key, what was found, what is allowed."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Sequence
from typing import Any

from geomdiag.errors import RecipeError

__all__ = [
    "check_choice",
    "check_flag",
    "check_idle",
    "check_keys",
    "check_name",
    "check_number",
    "check_share",
    "check_whole",
    "wrong",
]


def wrong(key: str, found: object, expected: str) -> RecipeError:
    """Return the error of a key whose value is not what it should be."""
    return RecipeError(f"{key}: found {found!r}, expected {expected}")


def check_whole(key: str, value: object, least: int, most: float = math.inf) -> None:
    """Check that a value is a whole number, not below `least` and not above `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        limits = f">= {least}" if most == math.inf else f"from {least} to {most}"
        raise wrong(key, value, f"a whole number {limits}")


def check_number(
    key: str, value: object, low: float, high: float = math.inf, *, edge: bool
) -> None:
    """Check ``low < value < high``; with `edge` the value may also equal `low`."""
    fits = (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and (low <= value if edge else low < value)
        and value < high
    )
    if not fits:
        limits = f"{'>=' if edge else '>'} {low:g}"
        if high != math.inf:
            limits += f" and < {high:g}"
        raise wrong(key, value, f"a number {limits}")


def check_share(key: str, value: object) -> None:
    """Check ``0 <= value <= 1``."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    if not fits:
        raise wrong(key, value, "a number from 0 to 1")


def check_choice(key: str, value: object, allowed: tuple[object, ...]) -> None:
    """Check that a value is one of `allowed`."""
    if value not in allowed or isinstance(value, bool):
        raise wrong(key, value, "one of " + ", ".join(repr(choice) for choice in allowed))


def check_idle(section: Any, key: str, needs: str) -> None:
    """Refuse a key of `section` that was set where it would change nothing."""
    table, _, name = key.rpartition(" ")
    found = getattr(section, name)
    if found != {entry.name: entry.default for entry in dataclasses.fields(section)}[name]:
        raise RecipeError(
            f"{table} {name}: found {found!r}, which has an effect only with {needs}; leave it out"
        )


def check_flag(key: str, value: object) -> None:
    """Check that a value is true or false."""
    if not isinstance(value, bool):
        raise wrong(key, value, "true or false")


def check_name(name: object) -> None:
    """Refuse what cannot name a folder."""
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+-]*", name, re.ASCII):
        raise wrong("name", name, "letters, digits and _ . + - (it names a folder)")


def check_keys(
    key: str, values: dict[str, Any], allowed: Sequence[str], *, required: Sequence[str] = ()
) -> None:
    """Refuse a table with an unknown or a missing key; the message suggests the nearest one."""
    prefix = f"{key} " if key else ""
    for name in values:
        if name not in allowed:
            close = difflib.get_close_matches(str(name), allowed, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise RecipeError(
                f"{prefix}{name}: unknown key{hint}; allowed here: {', '.join(sorted(allowed))}"
            )
    for name in required:
        if name not in values:
            raise RecipeError(f"{prefix}{name}: missing; the recipe must say it")
