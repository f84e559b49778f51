"""Numbers as text."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Sequence

from reproduction.statistics import COVERAGE, Median


def paragraph(text: str) -> str:
    """Return text as lines of a paragraph."""
    return textwrap.fill(
        " ".join(text.split()), 100, break_long_words=False, break_on_hyphens=False
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; all but the first column to the right."""
    ruler = [":--", *("--:" for _ in header[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ruler, *rows))


def listed(words: Sequence[str]) -> str:
    """Return words as an enumeration."""
    return (
        ", ".join(words[:-1]) + (" and " if words[:-1] else "") + (words[-1] if words else "none")
    )


def count(n: int, noun: str = "run") -> str:
    """Return a number with its noun."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def digits(value: float) -> str:
    """Return a number with two significant digits, whole from 10 on, no exponent."""
    if value >= 10 or value == 0:
        return f"{value:.0f}"
    return f"{value:.{1 - math.floor(math.log10(value))}f}"


def interval_words(median: Median, text: Callable[[float], str], unbounded: str) -> str:
    """Return a median and its interval, without where the values are too few for one.

    Parameters
    ----------
    median : Median
        What to tell.
    text : callable
        Of a finite number.
    unbounded : str
        For a median of which nothing is known from above.
    """

    def edge(value: float) -> str:
        return "∞" if math.isinf(value) else text(value)

    if math.isinf(median.lower):
        return unbounded
    few = median.coverage < COVERAGE
    if math.isinf(median.at_most):
        middle = unbounded if math.isinf(median.at_least) else f"> {text(median.at_least)}"
    elif median.at_least < median.at_most:
        middle = f"< {text(median.at_most)}"
    else:
        middle = text(median.at_least)
    return middle if few else f"{middle} [{edge(median.lower)}, {edge(median.upper)}]"
