"""What a checkpoint format must offer, and what it hands back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from geomdiag.checkpoints.beside.splits import Split
from geomdiag.checkpoints.formats.program import Program
from geomdiag.checkpoints.places.paths import AnyPath
from geomdiag.checkpoints.series import TensorMap, TensorSpec
from geomdiag.errors import CheckpointError

__all__ = [
    "HEAD",
    "Contents",
    "Curve",
    "Entry",
    "Format",
    "NotACheckpointError",
    "missing_extra",
    "read_head",
    "refusal",
]

#: Bytes of a file's beginning that recognition is given.
HEAD = 512


def read_head(path: AnyPath) -> bytes:
    """Return the beginning of a file.

    Raises
    ------
    CheckpointError
        If it cannot be read.
    """
    try:
        with path.open("rb", buffering=0) as file:
            head: bytes = file.read(HEAD)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    return head


class NotACheckpointError(CheckpointError):
    """The file is readable and holds no network: data, an optimiser's state, settings."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Losses or accuracies as stored, before they are set against the run's steps.

    Attributes
    ----------
    values : mapping of str to sequence of float
        Names as stored; columns of one length.
    steps : mapping of str to sequence of int
        Unit (``"step"``, ``"epoch"``) to the rows' numbers; empty when only order is known.
    source : str
        Where it was found.
    """

    values: Mapping[str, Sequence[float]]
    steps: Mapping[str, Sequence[int]]
    source: str


@dataclass(eq=False, kw_only=True)
class Entry:
    """One network state inside a file.

    Attributes
    ----------
    load : callable
        Opens the file again and returns this entry's tensors. Must be picklable, so that
        worker processes can be handed checkpoints.
    specs : mapping of str to TensorSpec
        Shapes and types of all tensors.
    metadata : mapping
        Scalars (and plain nested settings) stored with the entry.
    steps : mapping of str to int
        Step numbers stored inside, by unit (``"step"``, ``"epoch"``).
    member : str
        Name inside a file that holds several, else empty.
    kind : {"state", "dump"}
        See `geomdiag.checkpoints.series.Checkpoint`.
    parts : tuple of Path or RemotePath
        Further files that hold the entry's bytes (shards).
    program : callable or None
        Loads the computation that the file carries, for formats that run by themselves. Must
        be picklable.
    """

    load: Callable[[], TensorMap]
    specs: Mapping[str, TensorSpec]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    steps: Mapping[str, int] = field(default_factory=dict)
    member: str = ""
    kind: str = "state"
    parts: tuple[AnyPath, ...] = ()
    program: Callable[[], Program] | None = None


@dataclass(eq=False, kw_only=True)
class Contents:
    """All that a file holds.

    Attributes
    ----------
    entries : list of Entry
        At least one.
    config : mapping
        The run's settings.
    curves : list of Curve
        The run's losses and accuracies.
    split : Split or None
        Train/held-out split.
    notices : list of str
        What a person should know.
    """

    entries: list[Entry]
    config: Mapping[str, Any] = field(default_factory=dict)
    curves: list[Curve] = field(default_factory=list)
    split: Split | None = None
    notices: list[str] = field(default_factory=list)


@runtime_checkable
class Format(Protocol):
    """A way of storing checkpoints; register an instance under ``geomdiag.formats``.

    Attributes
    ----------
    name : str
        Registry name.
    description : str
        One line for ``geomdiag formats``.
    suffixes : tuple of str
        Usual endings; they narrow the search, the content decides.
    extra : str
        Optional dependency of geomdiag that it needs, or empty.
    lazy : bool
        Whether tensors are read one by one, when asked for.
    safe : bool
        Whether reading can never run code from the file.

    Notes
    -----
    A format whose files carry their computation says so with an attribute ``runs = True`` and
    sets `Entry.program`. A format that needs a package which is missing raises
    `geomdiag.checkpoints.formats.contract.missing_extra`'s error when it opens a file.

    Files at addresses and in archives: a format that says ``remote = True`` is given them as
    `geomdiag.checkpoints.places.paths.RemotePath`, to be read through ``path.open("rb")`` or,
    where a library wants a file of this machine,
    `geomdiag.checkpoints.places.copies.local_copy`. To any other format such a copy is given as
    a `pathlib.Path`.
    """

    name: str
    description: str
    suffixes: tuple[str, ...]
    extra: str
    lazy: bool
    safe: bool

    def recognises(self, path: AnyPath, head: bytes) -> bool:
        """Return whether `path`, beginning with the bytes `head`, is of this format."""
        ...

    def open(self, path: AnyPath, *, allow_pickle: bool = False) -> Contents:
        """Return what `path` holds, without reading tensor values.

        Raises
        ------
        CheckpointError
            If the file is truncated or otherwise unreadable.
        UnsafeCheckpointError
            If reading it would run code, and `allow_pickle` is False.
        NotACheckpointError
            If it is readable and holds no network.
        """
        ...


def missing_extra(path: AnyPath, package: str, extra: str) -> CheckpointError:
    """Return the error for a file whose reader is not installed.

    Parameters
    ----------
    path : Path or RemotePath
        The file.
    package : str
        What cannot be imported.
    extra : str
        The extra of geomdiag that brings it.
    """
    return CheckpointError(
        f"{path}: reading this file needs the package {package!r}, which is not installed. "
        f"Install it with: pip install 'geomdiag[{extra}]'"
    )


def refusal(path: AnyPath, head: bytes, expected: str) -> CheckpointError:
    """Return the error for a file whose beginning no format knows.

    Parameters
    ----------
    path : Path or RemotePath
        The file.
    head : bytes
        Its first bytes.
    expected : str
        What was expected instead.
    """
    text = head.lstrip()[:64].lower()
    if not head:
        return CheckpointError(
            f"{path}: the file is empty (0 bytes); the copy or the save was interrupted. "
            "Copy or save it again."
        )
    if text.startswith(b"version https://git-lfs"):
        return CheckpointError(
            f"{path}: this is a Git LFS pointer, not the checkpoint itself. "
            "Fetch the content with `git lfs pull` in its repository."
        )
    if text.startswith((b"<!doctype html", b"<html", b"<?xml")):
        return CheckpointError(
            f"{path}: this is a web page, not a checkpoint (a download that ended on a login or "
            "error page). Download the file itself again."
        )
    if head.startswith(b"\x93NUMPY"):
        return CheckpointError(
            f"{path}: one NumPy array, whose name does not say what it is. Name it "
            "<part>_step_<N>.npy with a part such as embedding or logits, or save all arrays of a "
            "step into one .npz."
        )
    return CheckpointError(
        f"{path}: not recognised as a checkpoint; it begins with {head[:12]!r}, expected "
        f"{expected}. Re-save it with torch.save(model.state_dict(), ...) or as safetensors."
    )
