"""A limit on going through containers of a file, which may hold one another over and over.

Sixty dicts, each holding the one before twice, take some hundred bytes and unfold to 2⁶⁰ entries.
"""

from __future__ import annotations

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
            how = (
                f"nested more than {_DEEPEST} deep"
                if depth > _DEEPEST
                else (f"holding one another so that they unfold to more than {self.most} entries")
            )
            raise CheckpointError(
                f"the modules or containers in it are {how}; refused. Save the weights as one "
                "flat dict: torch.save(model.state_dict(), path)"
            )
