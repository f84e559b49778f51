"""Paths of checkpoints: `pathlib.Path` on this machine, `RemotePath` anywhere else.

A `RemotePath` does what the readers need of a `pathlib.Path`: names, folders' contents, sizes,
open files. A `Source` behind it knows where the bytes are: a file system reached by an address
(`geomdiag.checkpoints.places.remote`) or an archive (`geomdiag.checkpoints.places.archived`).
"""

# ruff: noqa: D102 - AnyPath's members are pathlib's

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import IO, Any, Literal, Protocol, Self, cast

__all__ = ["AnyPath", "RemotePath", "Source", "Stretch", "Window"]

#: Bytes fetched at a time where a reader goes through a file in small steps.
_STEP = 32 << 10
#: Folders deeper than this are not looked into: a server's links may lead in circles.
_DEEPEST = 20
#: Files and folders that are listed at most.
_MOST = 200_000


class _Stat(Protocol):
    @property
    def st_size(self) -> int: ...
    @property
    def st_mtime_ns(self) -> int: ...


class AnyPath(Protocol):
    """What `pathlib.Path` and `RemotePath` have in common."""

    @property
    def name(self) -> str: ...
    @property
    def suffix(self) -> str: ...
    @property
    def stem(self) -> str: ...
    @property
    def parent(self) -> Self: ...
    @property
    def parents(self) -> Sequence[Self]: ...
    def __truediv__(self, name: str, /) -> Self: ...
    def __lt__(self, other: Any, /) -> bool: ...
    def __hash__(self) -> int: ...
    def relative_to(self, other: Any, /) -> PurePath: ...
    def is_relative_to(self, other: Any, /) -> bool: ...
    def resolve(self) -> Self: ...
    def exists(self) -> bool: ...
    def is_file(self) -> bool: ...
    def is_dir(self) -> bool: ...
    def iterdir(self) -> Iterator[Self]: ...
    def rglob(self, pattern: Literal["*"], /) -> Iterator[Self]: ...
    def stat(self) -> _Stat: ...
    def open(
        self,
        mode: str,
        buffering: int = ...,
        encoding: str | None = ...,
        errors: str | None = ...,
        newline: str | None = ...,
    ) -> IO[Any]: ...
    def read_bytes(self) -> bytes: ...
    def read_text(self, encoding: str | None = ...) -> str: ...


@dataclass(frozen=True)
class Stat:
    """The part of `os.stat_result` that a source knows."""

    st_size: int
    st_mtime_ns: int = 0


class Source(ABC):
    """A tree of files that are not files of this machine; paths inside have no leading slash.

    Attributes
    ----------
    name : str
        What the root is called.
    known : dict of str to Mapping
        Facts about files (type, size, times), gathered once.
    copied : dict of str to Path
        Whole copies on this machine, see `geomdiag.checkpoints.places.copies`.
    """

    name: str = ""

    def __init__(self) -> None:
        self.known: dict[str, Mapping[str, Any]] = {}
        self.copied: dict[str, Path] = {}

    @abstractmethod
    def spell(self, inside: str) -> str:
        """Return a path as a person reads it."""

    @abstractmethod
    def listing(self, folder: str) -> Mapping[str, bool]:
        """Return what lies in a folder: name to whether it is a folder itself.

        Raises
        ------
        OSError
            If it is no folder or cannot be listed.
        """

    @abstractmethod
    def kind(self, inside: str) -> Literal["file", "folder", ""]:
        """Return what lies at a path; empty if nothing does."""

    @abstractmethod
    def size(self, inside: str) -> int | None:
        """Return a file's size in bytes, None where that is not told; may raise OSError."""

    @abstractmethod
    def stamp(self, inside: str) -> str:
        """Return a text that changes when a file does, as far as that is told."""

    @abstractmethod
    def open(self, inside: str) -> io.RawIOBase:
        """Return a file, open for reading any stretch of it; may raise OSError."""

    @abstractmethod
    def chunks(self, inside: str) -> Iterator[bytes]:
        """Yield all bytes of a file in order; may raise OSError."""

    def length(self, inside: str) -> int:
        """Return a file's size, counted where it is not told; may raise OSError."""
        size = self.size(inside)
        return sum(map(len, self.chunks(inside))) if size is None else size

    def near(self, inside: str) -> bool:  # noqa: ARG002
        """Return whether any stretch of a file can be read as from a file of this machine."""
        return False


class RemotePath:
    """A path in a `Source`; behaves like a `pathlib.Path` that can only be read.

    Parameters
    ----------
    source : Source
        Where it lies.
    inside : str
        The path from the source's root, with slashes.
    """

    __slots__ = ("_inside", "_name", "_text", "source")

    def __init__(self, source: Source, inside: str = "") -> None:
        self.source = source
        self._inside = inside.strip("/")
        self._text = source.spell(self._inside)
        self._name = PurePosixPath(self._inside.rpartition("/")[2] or source.name)

    @property
    def inside(self) -> str:
        """The path from the source's root."""
        return self._inside

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"RemotePath({self._text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __lt__(self, other: RemotePath) -> bool:
        return self._inside.split("/") < other._inside.split("/")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _: Any) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self.source, self._inside, self.source.known.get(self._inside))

    @property
    def name(self) -> str:
        """Last part; of the root, the source's name."""
        return self._name.name

    @property
    def suffix(self) -> str:
        """Ending of the name, with its dot."""
        return self._name.suffix

    @property
    def stem(self) -> str:
        """The name without `suffix`."""
        return self._name.stem

    @property
    def parent(self) -> Self:
        """The folder; the root's is the root."""
        return type(self)(self.source, self._inside.rpartition("/")[0])

    @property
    def parents(self) -> tuple[Self, ...]:
        """All folders above, the nearest first."""
        found: list[Self] = []
        here = self
        while here._inside:
            here = here.parent
            found.append(here)
        return tuple(found)

    def __truediv__(self, name: str) -> Self:
        return type(self)(self.source, f"{self._inside}/{name}")

    def relative_to(self, other: RemotePath) -> PurePosixPath:
        """Return the path from the folder `other` to this one; ValueError if it is not below."""
        return PurePosixPath(self._inside or ".").relative_to(PurePosixPath(other._inside or "."))

    def is_relative_to(self, other: RemotePath) -> bool:
        """Return whether the path is `other` or lies below it."""
        return self == other or other in self.parents

    def resolve(self) -> Self:
        """Return the path itself: it is absolute."""
        return self

    def _kind(self) -> str:
        try:
            return self.source.kind(self._inside)
        except PermissionError:  # above what was opened, perhaps: nothing that can be read
            return ""

    def exists(self) -> bool:
        """Return whether there is a file or folder."""
        return bool(self._kind())

    def is_file(self) -> bool:
        """Return whether there is a file."""
        return self._kind() == "file"

    def is_dir(self) -> bool:
        """Return whether there is a folder."""
        return self._kind() == "folder"

    def iterdir(self) -> Iterator[Self]:
        """Yield what lies in the folder, in order of name; raises OSError if it is none."""
        yield from (self / name for name in sorted(self.source.listing(self._inside)))

    def walk(self) -> Iterator[tuple[Self, list[str], list[str]]]:
        """Yield each folder below with the names of its folders and files, as `os.walk` does.

        Names taken out of the first list are not gone into. Raises OSError.
        """
        count, left = 0, [(self, 0)]
        while left:
            folder, depth = left.pop()
            listing = self.source.listing(folder._inside)
            folders = sorted(name for name, is_folder in listing.items() if is_folder)
            files = sorted(name for name, is_folder in listing.items() if not is_folder)
            count += len(listing)
            if count > _MOST or depth > _DEEPEST:
                raise OSError(f"{folder} holds too much to look through; open a folder below it")
            yield folder, folders, files
            left += [(folder / name, depth + 1) for name in reversed(folders)]

    def rglob(self, pattern: Literal["*"]) -> Iterator[Self]:  # noqa: ARG002
        """Yield all files and folders below."""
        for folder, folders, files in self.walk():
            yield from (folder / name for name in (*folders, *files))

    def stat(self) -> Stat:
        """Return the size of a file; raises OSError."""
        return Stat(self.source.length(self._inside))

    def open(
        self,
        mode: str,
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """Open the file for reading; raises OSError.

        With ``buffering=0`` each read fetches exactly its own bytes.
        """
        raw = self._raw()
        if mode == "rb" and buffering == 0:
            return cast("IO[bytes]", raw)
        file = io.BufferedReader(raw, buffering if buffering > 1 else _STEP)
        if mode == "rb":
            return file
        return io.TextIOWrapper(file, encoding=encoding, errors=errors, newline=newline)

    def _raw(self) -> io.RawIOBase:
        copy = self.source.copied.get(self._inside)
        if copy is not None:
            try:
                return copy.open("rb", buffering=0)
            except FileNotFoundError:  # it had to make room
                del self.source.copied[self._inside]
        return self.source.open(self._inside)

    def read_bytes(self) -> bytes:
        """Return the file's bytes; raises OSError."""
        with self.open("rb", buffering=1 << 20) as file:
            data: bytes = file.read()
        return data

    def read_text(self, encoding: str | None = None) -> str:
        """Return the file's text; raises OSError."""
        return io.TextIOWrapper(io.BytesIO(self.read_bytes()), encoding=encoding).read()


def _again(
    kind: type[RemotePath], source: Source, inside: str, known: Mapping[str, Any] | None
) -> RemotePath:
    """Remake a path in another process, with what was known of its file."""
    if known is not None:
        source.known[inside] = known
    return kind(source, inside)


class Stretch(io.RawIOBase):
    """Bytes of a known number that are read from any place; `readinto` is the subclass's.

    Parameters
    ----------
    size : int
        Number of bytes.
    """

    def __init__(self, size: int) -> None:
        self._size, self._at = size, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move, and return the new place."""
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def tell(self) -> int:
        """Return the place."""
        return self._at


class Window(Stretch):
    """A stretch of a file as a file of its own.

    Parameters
    ----------
    file : binary file
        Closed with the window.
    start, size : int
        Where the stretch lies.
    """

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        super().__init__(size)
        self._file, self._start = file, start

    def readinto(self, buffer: Any) -> int:
        """Read as much as there is, up to the buffer's size."""
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._size - self._at))
        self._file.seek(self._start + self._at)
        read: int = self._file.readinto(view[:count])  # type: ignore[attr-defined]
        self._at += read
        return read

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
