"""Names of metrics chosen by patterns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["choose"]


def choose(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Return the names that one of the patterns matches, in the order of the patterns.

    Parameters
    ----------
    names : iterable of str
    patterns : sequence of str
        Names in which ``*`` stands for anything; ``a|b``: what matches b only where nothing
        matches a.

    Returns
    -------
    list of str
    """
    known = list(names)
    found: dict[str, None] = {}
    for pattern in patterns:
        for alternative in pattern.split("|"):
            words = re.compile(".*".join(map(re.escape, alternative.split("*"))))
            if own := [name for name in known if words.fullmatch(name)]:
                found |= dict.fromkeys(own)
                break
    return list(found)
