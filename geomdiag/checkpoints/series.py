"""A run as it lies on disk: checkpoints in order of step, and what was found beside them."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomdiag.checkpoints.beside.options import Options
from geomdiag.checkpoints.beside.splits import Split
from geomdiag.checkpoints.places.copies import whole
from geomdiag.checkpoints.places.paths import AnyPath
from geomdiag.errors import CheckpointError

__all__ = ["Checkpoint", "History", "Series", "TensorMap", "TensorSpec", "as_tensors"]


@dataclass(frozen=True)
class TensorSpec:
    """Shape and type of a stored tensor, known without reading its values.

    Attributes
    ----------
    shape : tuple of int
        Extent of each axis.
    dtype : str
        Stored type by its NumPy or torch name, e.g. ``"float32"``, ``"bfloat16"``.
    """

    shape: tuple[int, ...]
    dtype: str


class TensorMap(Mapping[str, NDArray[Any]], ABC):
    """Lazy mapping from tensor names to arrays; a value is read when it is asked for.

    Types NumPy lacks (bfloat16, float8) come as float32.
    """

    @abstractmethod
    def spec(self, name: str) -> TensorSpec:
        """Return the shape and stored type of `name` without reading its values."""

    def __contains__(self, name: object) -> bool:
        """Return whether there is such a tensor; `Mapping` itself would read it to tell."""
        try:
            self.spec(name)  # type: ignore[arg-type]
        except KeyError:
            return False
        return True

    def specs(self) -> dict[str, TensorSpec]:
        """Return `spec` of every tensor, in stored order."""
        return {name: self.spec(name) for name in self}

    def rows(self, name: str, indices: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[Any]:
        """Return some entries along the first axis of `name`, without the others where it can.

        Formats that keep a tensor as plain bytes, mapped or in chunks read those entries only;
        from the others the whole tensor is read first.

        Parameters
        ----------
        name : str
            Of a tensor with at least one axis.
        indices : (m,) int
            Entries from 0 on, in any order, repeated or not.

        Returns
        -------
        (m, ...) array

        Raises
        ------
        KeyError
            If there is no such tensor.
        CheckpointError
            If the tensor has no axis, an index lies outside it, or the file cannot be read.
        """
        shape = self.spec(name).shape
        wanted = np.asarray(indices)
        if not wanted.size:
            wanted = wanted.astype(np.int64)
        if not shape or wanted.ndim != 1 or wanted.dtype.kind not in "iu":
            raise CheckpointError(
                f"rows of {name!r} were asked for by {wanted.dtype} of shape {wanted.shape}, and "
                f"the tensor has shape {shape}; expected a list of integers and at least one axis"
            )
        outside = wanted[(wanted < 0) | (wanted >= shape[0])]
        if outside.size:
            raise CheckpointError(
                f"{name!r} of shape {shape} has no row {outside[0]}: rows go from 0 to "
                f"{shape[0] - 1}"
            )
        return self._rows(name, wanted.astype(np.int64))

    def _rows(self, name: str, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Return the rows that `rows` has checked; formats that can read less do so here."""
        return self[name][indices]


class _Arrays(TensorMap):
    """Arrays that are in memory already."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._arrays = dict(arrays)

    def spec(self, name: str) -> TensorSpec:
        """Return shape and type of `name`."""
        return TensorSpec(self._arrays[name].shape, str(self._arrays[name].dtype))

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


def as_tensors(value: Any, *, path: AnyPath, plugin: str) -> TensorMap:
    """Return what a format's ``load`` gave as a `TensorMap`.

    Parameters
    ----------
    value : TensorMap or mapping of str to array-like
        As returned by ``load``; a plain mapping is wrapped.
    path : Path or RemotePath
        The file, for the message.
    plugin : str
        The format's name, for the message.

    Raises
    ------
    CheckpointError
        If it is neither; the message names the format.
    """
    if isinstance(value, TensorMap):
        return value
    expected = (
        "expected a geomdiag.checkpoints.TensorMap, or a dict from tensor names to NumPy arrays "
        "of numbers; the format's package must be mended"
    )
    if not isinstance(value, Mapping):
        raise CheckpointError(
            f"{path}: the format {plugin!r} loaded a {type(value).__name__}; {expected}"
        )
    arrays: dict[str, NDArray[Any]] = {}
    for name, item in value.items():
        try:
            array = np.asarray(item)
        except Exception as error:  # whatever an array-like of another library raises
            raise CheckpointError(
                f"{path}: the format {plugin!r} loaded {name!r} as a {type(item).__name__}, which "
                f"NumPy cannot take ({type(error).__name__}: {error}); {expected}"
            ) from error
        if array.dtype.kind not in "biufc":
            raise CheckpointError(
                f"{path}: the format {plugin!r} loaded {name!r} as a {type(item).__name__} "
                f"({array.dtype}); {expected}"
            )
        arrays[str(name)] = array
    return _Arrays(arrays)


@dataclass(eq=False, kw_only=True)
class Checkpoint:
    """One saved state of a network.

    Attributes
    ----------
    step : int
        Optimiser step (or epoch, in the unit the run counts in).
    step_source : str
        Where the step was found: ``"metadata"``, ``"file name"``, ``"sidecar"``, ``"unknown"``.
    path : Path or RemotePath
        File (or index of a sharded file) it lies in.
    member : str
        Entry inside a file that holds a whole series, else ``""``.
    load : callable
        Opens the file and returns its tensors; raises `CheckpointError`.
    metadata : mapping
        Scalars stored inside (losses, accuracies, configuration).
    kind : {"state", "dump"}
        ``dump``: the tensors are a model's computed parts (``logits``, ``embedding``, ...),
        not its parameters.
    error : str
        Why the checkpoint could not be opened; empty when it could.
    parts : tuple of Path or RemotePath
        Further files that hold its bytes (shards named by an index).
    program : callable or None
        Loads the computation that the file carries (`formats.program.Program`), or None. May
        raise `CheckpointError`, and `UnsafeCheckpointError` if it was not allowed to run.
    """

    step: int
    path: AnyPath
    load: Callable[[], TensorMap]
    step_source: str = "unknown"
    member: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "state"
    error: str = ""
    parts: tuple[AnyPath, ...] = ()
    program: Callable[[], Any] | None = None

    @cached_property
    def tensors(self) -> TensorMap:
        """Tensors by name, read lazily.

        Raises
        ------
        CheckpointError
            If the file cannot be read.
        """
        return self.load()

    @cached_property
    def digest(self) -> str:
        """sha256 of the checkpoint's bytes, hexadecimal.

        Of the file (and its shards); for an entry of a file that holds a whole series, of the
        entry's own tensors, so that a series file that grows keeps the digests it had.

        Raises
        ------
        CheckpointError
            If the file cannot be read.
        """
        if self.member:
            return self.content_digest()
        digest = hashlib.sha256()
        for path in (self.path, *self.parts):
            try:
                with whole(path).open("rb") as file:
                    while chunk := file.read(1 << 20):
                        digest.update(chunk)
            except OSError as error:
                raise CheckpointError(f"{path}: cannot be read: {error}") from error
        return digest.hexdigest()

    def content_digest(self) -> str:
        """Return the sha256 of all tensors' names, types, shapes and values.

        Equal for two files that hold the same network in different wrappings.

        Raises
        ------
        CheckpointError
            If the file cannot be read.
        """
        digest = hashlib.sha256()
        for name in sorted(self.tensors):
            spec = self.tensors.spec(name)
            digest.update(f"{name}\0{spec.dtype}\0{spec.shape}\0".encode())
            digest.update(np.ascontiguousarray(self.tensors[name]).tobytes())
        return digest.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the opened tensors out when the checkpoint goes to another process."""
        return {key: value for key, value in self.__dict__.items() if key != "tensors"}

    def __repr__(self) -> str:
        return f"<Checkpoint step={self.step} {self.path.name}{self.member and f'[{self.member}]'}>"


@dataclass(frozen=True, eq=False)
class History:
    """Losses and accuracies that the run itself recorded.

    Attributes
    ----------
    step : (m,) int array
        Increasing.
    values : mapping of str to (m,) float array
        ``train_loss``, ``heldout_loss``, ``train_accuracy``, ``heldout_accuracy``; NaN where
        a row lacks one.
    source : str
        Where they were found.
    """

    step: NDArray[np.int64]
    values: Mapping[str, NDArray[np.float64]]
    source: str


@dataclass(eq=False, kw_only=True)
class Series:
    """One run: checkpoints in order of step.

    Attributes
    ----------
    name : str
        Name of the run: its folder's path relative to what was opened.
    path : Path or RemotePath
        File or folder.
    checkpoints : sequence of Checkpoint
        Strictly increasing steps.
    format : str
        Name of the format, e.g. ``"pytorch"``.
    config : mapping
        The run's configuration as found beside or inside the checkpoints.
    history : History or None
        The run's own curves.
    split : Split or None
        Train/held-out split, where found or given.
    notices : list of str
        What a person should know: left-out files, contradictions, guesses.
    unit : {"step", "epoch", ""}
        What the steps count, where the run says.
    options : Options
        What the ``geomdiag.toml`` files beside it say.
    coordinates : mapping of str to int, float or str
        Settings that the names of its folders and file spell out (``seed=3/wd=1.0``).
    """

    name: str
    path: AnyPath
    checkpoints: Sequence[Checkpoint]
    format: str
    config: Mapping[str, Any] = field(default_factory=dict)
    history: History | None = None
    split: Split | None = None
    notices: list[str] = field(default_factory=list)
    unit: str = ""
    options: Options = field(default_factory=Options)
    coordinates: Mapping[str, int | float | str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.checkpoints)

    def __iter__(self) -> Iterator[Checkpoint]:
        return iter(self.checkpoints)

    def __getitem__(self, index: int) -> Checkpoint:
        return self.checkpoints[index]

    @property
    def steps(self) -> NDArray[np.int64]:
        """Steps of the checkpoints, (n,), increasing."""
        return np.array([checkpoint.step for checkpoint in self.checkpoints], dtype=np.int64)

    def __repr__(self) -> str:
        span = f"steps {self[0].step}…{self[-1].step}" if len(self) else "empty"
        return f"<Series {self.name!r}: {len(self)} checkpoints, {span}, {self.format}>"
