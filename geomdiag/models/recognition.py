"""Telling from names and shapes which network a checkpoint holds, before reading any value.

An architecture lists the naming conventions it knows. A convention is a list of tensors with
symbolic shapes; it fits when every required tensor is there, all shapes agree with one value
for each symbol, and no tensor is left that has no place in it.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from geomdiag.checkpoints.series import TensorSpec
from geomdiag.models.layout import Sizes
from geomdiag.models.settings import Settings
from geomdiag.models.snapshot import Network
from geomdiag.tasks.contract import Task

__all__ = [
    "BUFFERS",
    "Architecture",
    "Convention",
    "Fit",
    "Match",
    "NearMiss",
    "Role",
    "fit_convention",
    "nearest",
    "shared_prefixes",
]

#: Constants that modules register beside their weights; they never play a part.
BUFFERS = re.compile(
    r"(^|\.)(mask|causal_mask|attn_mask|tril|triu|IGNORE|basis|position_ids|pos_ids|masked_bias|"
    r"inv_freq|(rotary_|rope_)?(cos|sin)(_cached)?)$"
)


@dataclass(frozen=True)
class Role:
    """A tensor that a convention expects.

    Attributes
    ----------
    part : str
        What it is, e.g. ``"embedding"``; ``{i}`` stands for the block.
    names : tuple of str
        Names it may have; ``{i}`` stands for the block.
    axes : str
        Its shape as symbols, e.g. ``"h e d"``; ``2*d`` and ``h*e`` are allowed.
    required : bool
        Whether the convention fails without it.
    """

    part: str
    names: tuple[str, ...]
    axes: str
    required: bool = True

    def at(self, block: int) -> Role:
        """Return the role of one block."""
        return Role(
            self.part.replace("{i}", str(block)),
            tuple(name.replace("{i}", str(block)) for name in self.names),
            self.axes,
            self.required,
        )


@dataclass(frozen=True)
class Convention:
    """One way of naming the tensors of an architecture.

    Attributes
    ----------
    name : str
        For messages, e.g. ``"TransformerLens"``.
    roles : tuple of Role
        Once each.
    block_roles : tuple of Role
        Once a block; the number of blocks is found.
    """

    name: str
    roles: tuple[Role, ...]
    block_roles: tuple[Role, ...] = ()


@dataclass(frozen=True)
class Fit:
    """A convention that fits.

    Attributes
    ----------
    roles : mapping of str to str
        Part to tensor name.
    dims : mapping of str to int
        Value of each symbol.
    blocks : int
        Number of blocks.
    """

    roles: Mapping[str, str]
    dims: Mapping[str, int]
    blocks: int


@dataclass(frozen=True)
class NearMiss:
    """Why a convention does not fit; the best one is shown to the user.

    Attributes
    ----------
    score : float
        How near: higher is nearer, 0 or less means not related.
    message : str
        Which tensor was expected and which found.
    refused : bool
        Whether all tensors fit and only the configuration asks for what is not known.
    """

    score: float
    message: str
    refused: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Match:
    """A recognised network, not built yet.

    Attributes
    ----------
    architecture : str
        Registry name.
    convention : str
        Whose names the tensors have.
    roles : mapping of str to str
        Part to tensor name, for `inspect`.
    sizes : Sizes
        Vocabulary, classes and context as the shapes say.
    build : callable
        ``build(tensors, task)`` reads the tensors and returns the network; raises
        `ArchitectureError`.
    notices : tuple of str
        What had to be assumed.
    """

    architecture: str
    convention: str
    roles: Mapping[str, str]
    sizes: Sizes
    build: Callable[[Mapping[str, Any], Task], Network]
    notices: tuple[str, ...] = field(default=())


class Architecture(ABC):
    """A family of networks that geomdiag can recognise and run; registered by name."""

    #: Registry name.
    name: str
    #: One line for people.
    title: str
    #: Whether it is asked only after all others, whatever their names begin with.
    last_resort: bool = False

    @abstractmethod
    def match(self, specs: Mapping[str, TensorSpec], settings: Settings) -> Match | NearMiss:
        """Return the match, or how near the tensors come.

        Parameters
        ----------
        specs : mapping of str to TensorSpec
            Shapes of a checkpoint's tensors.
        settings : Settings
            The run's configuration.

        Raises
        ------
        ArchitectureError
            If the tensors fit but the configuration asks for something unknown.
        """


def shared_prefixes(names: Iterable[str]) -> list[str]:
    """Return what wrappers may have put before all names, shortest first: ``["", "model."]``.

    Parameters
    ----------
    names : iterable of str
        Tensor names.
    """
    parts = [name.split(".") for name in names]
    prefixes = [""]
    while parts and all(len(part) > 1 for part in parts) and len({part[0] for part in parts}) == 1:
        prefixes.append(prefixes[-1] + parts[0][0] + ".")
        parts = [part[1:] for part in parts]
    return prefixes


def _solve(axis: str, size: int, dims: dict[str, int]) -> bool:
    """Give the one unknown symbol of an axis its value; tell whether the size agrees."""
    known, unknown = 1, []
    for factor in axis.split("*"):
        if factor.isdigit():
            known *= int(factor)
        elif factor in dims:
            known *= dims[factor]
        else:
            unknown.append(factor)
    if not unknown:
        return known == size
    if size % known or size == 0:
        return False
    if len(unknown) == 1:
        dims[unknown[0]] = size // known
    return True


def _spelled(axes: str, dims: Mapping[str, int]) -> str:
    """Write a symbolic shape with the values known so far, e.g. ``(d=128, m)``."""
    parts = []
    for axis in axes.split():
        value = 1
        for factor in axis.split("*"):
            value *= int(factor) if factor.isdigit() else dims.get(factor, 0)
        parts.append(f"{axis}={value}" if value else axis)
    return "(" + ", ".join(parts) + ")"


def fit_convention(
    convention: Convention,
    specs: Mapping[str, TensorSpec],
    ignored: Callable[[str], bool] = lambda _name: False,
) -> Fit | NearMiss:
    """Fit one convention to a checkpoint's tensors.

    Parameters
    ----------
    convention : Convention
        What is expected.
    specs : mapping of str to TensorSpec
        What is there.
    ignored : callable
        Tells of a further tensor whether it may stay without a part; `BUFFERS` always may.

    Returns
    -------
    Fit or NearMiss
    """
    dims: dict[str, int] = {}
    found: dict[str, str] = {}
    problems: list[str] = []
    expected = list(convention.roles)
    blocks = 0
    while any(name in specs for role in convention.block_roles for name in role.at(blocks).names):
        expected += [role.at(blocks) for role in convention.block_roles]
        blocks += 1
    required = 0
    for role in expected:
        required += role.required
        name = next((name for name in role.names if name in specs), None)
        if name is None:
            if role.required:
                shape = _spelled(role.axes, dims)
                problems.append(f"tensor {role.names[0]!r} of shape {shape} is missing")
            continue
        axes, shape_found = role.axes.split(), specs[name].shape
        trial = dict(dims)
        agrees = len(axes) == len(shape_found) and all(
            _solve(axis, size, trial) for axis, size in zip(axes, shape_found, strict=True)
        )
        if not agrees:
            problems.append(
                f"tensor {name!r} should have shape {_spelled(role.axes, dims)} and has "
                f"{tuple(shape_found)}"
            )
            continue
        dims = trial
        found[role.part] = name
    if convention.block_roles and not blocks:
        first = convention.block_roles[0].at(0)
        required += 1
        problems.append(f"tensor {first.names[0]!r} is missing")
    used = set(found.values())
    placed = {name for role in expected for name in role.names}
    left = [
        name
        for name in specs
        if name not in used
        and name not in placed
        and not BUFFERS.search(name)
        and not ignored(name)
    ]
    if left:
        problems.append(
            f"tensor {left[0]!r} of shape {tuple(specs[left[0]].shape)} has no place in it"
            + (f" (nor have {len(left) - 1} more)" if len(left) > 1 else "")
        )
    if not problems:
        return Fit(found, dims, blocks)
    nearness = len(found) - len(problems) - 0.5 * len(left) - (0 if found else required)
    return NearMiss(nearness, f"{convention.name}: " + "; ".join(problems[:3]))


def nearest(misses: Sequence[NearMiss]) -> NearMiss:
    """Return the nearest of several near misses; the first among equals."""
    return max(misses, key=lambda miss: miss.score)
