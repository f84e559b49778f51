"""What a look at a folder of checkpoints gives."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Look", "entries", "fresh_rows", "reasons"]


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one look at the folder gave.

    Attributes
    ----------
    tree : xr.DataTree or None
        The result so far; None while there is no checkpoint.
    fresh : mapping of str to tuple of int
        Run to the steps that this look added.
    making : tuple of Path
        Files that cannot be opened, and changed so lately that they are probably being written.
    errors : mapping of str to str
        Run and step to what is wrong with a checkpoint, told for the first time.
    problem : str
        Why the folder could not be opened; empty where it could.
    changed : bool
        Whether checkpoints came, went or changed, or are being written.
    unsaved : str
        Why the result could not be written, as on a full disk; empty where it could. What was
        measured is kept in memory, and the result is written at a later look.
    behind : bool
        Whether what compares checkpoints with one another is left to a later look.
    """

    tree: xr.DataTree | None
    fresh: Mapping[str, tuple[int, ...]]
    making: tuple[Path, ...]
    errors: Mapping[str, str]
    problem: str
    changed: bool
    unsaved: str = ""
    behind: bool = False


def reasons(node: xr.DataTree) -> set[str]:
    """Return why diagnostics of a run were not computed."""
    return set(json.loads(str(node.attrs.get("not_computed", "{}"))).values())


def entries(node: xr.DataTree, *names: str) -> Iterator[tuple[Any, ...]]:
    """Yield the step of each row of a run, and its values of some variables."""
    dataset = node.to_dataset()
    if "step" in dataset.coords and all(name in dataset for name in names):
        yield from zip(*(dataset[name].values.tolist() for name in ("step", *names)), strict=True)


def fresh_rows(before: xr.DataTree | None, now: xr.DataTree) -> dict[str, tuple[int, ...]]:
    """Return the steps of each run that an earlier result has not, or of other checkpoints.

    Those that could not be read at all are none.
    """

    def rows(tree: xr.DataTree) -> dict[str, set[tuple[int, str]]]:
        return {
            str(node.attrs.get("run", name)): {
                (step, digest) for step, digest in entries(node, "digest") if digest
            }
            for name, node in tree.children.items()
        }

    old = {} if before is None else rows(before)
    new = {name: own - old.get(name, set()) for name, own in rows(now).items()}
    return {name: tuple(sorted(step for step, _ in own)) for name, own in new.items() if own}
