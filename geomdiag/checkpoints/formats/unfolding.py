"""A limit on going through containers of a file, which may hold one another over and over.

Sixty dicts, each holding the one before twice, take some hundred bytes and unfold to 2⁶⁰ entries.
"""

from __future__ import annotations

from collections.abc import Mapping

from geomdiag.errors import CheckpointError

__all__ = ["Unfolding"]

_MOST = 1_000_000
_DEEPEST = 100


class Unfolding:
    """Counts the entries that are gone through, and how deep they lie.

    Parameters
    ----------
    most : int
        Entries that may be.
    """

    def __init__(self, most: int = _MOST) -> None:
        self.most, self._left = most, most

    def enter(self, count: int, depth: int) -> None:
        """Note a container of `count` entries at `depth`.

        Raises
        ------
        CheckpointError
            If there are too many, or it lies too deep.
        """
        self._left -= 1 + count
        if depth > _DEEPEST or self._left < 0:
            raise CheckpointError(
                f"what it holds is nested more than {_DEEPEST} deep"
                if depth > _DEEPEST
                else f"what it holds unfolds to more than {self.most} entries: its containers "
                "hold one another"
            )

    def through(self, value: object, depth: int = 0) -> None:
        """Go through nested mappings and lists; raises as `enter` does."""
        if isinstance(value, Mapping | list | tuple):
            self.enter(len(value), depth)
            for item in value.values() if isinstance(value, Mapping) else value:
                self.through(item, depth + 1)
