"""What a figure tells of itself, so that a command can draw it by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Figure"]


@dataclass(frozen=True)
class Figure:
    """A figure that can be asked for by name.

    Attributes
    ----------
    name : str
        Registry name.
    draw : callable
        Takes what `of` says and the keyword ``ax``; returns Axes, or a list of them.
    of : {"run", "runs", "checkpoint"}
        ``run``: the `xarray.Dataset` of one run. ``runs``: a result (`xarray.DataTree`) or a
        corpus. ``checkpoint``: a `geomdiag.Snapshot`.
    about : str
        One line for people.
    takes : tuple of str
        Further keywords: ``"step"`` (int), ``"task"`` (str).
    """

    name: str
    draw: Callable[..., Any]
    of: Literal["run", "runs", "checkpoint"]
    about: str
    takes: tuple[str, ...] = ()
