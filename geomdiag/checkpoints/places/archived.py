"""Archives (zip, tar, compressed tar) that hold checkpoints, read where they lie.

A member is a stretch of the archive's bytes; nothing is unpacked under the names that the archive
gives. A compressed tar is first decompressed, once, to a plain one among the temporary files.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, NamedTuple

from geomdiag.checkpoints.formats.archives import FREE, RATIO, Archive
from geomdiag.checkpoints.formats.dumps import ARRAYS
from geomdiag.checkpoints.places.copies import local_copy, room_for, temporary_file, whole
from geomdiag.checkpoints.places.paths import AnyPath, RemotePath, Source, Window
from geomdiag.checkpoints.steps import read_stem
from geomdiag.errors import CheckpointError

__all__ = ["ENDINGS", "archive_stem", "holds_files", "open_archive"]

#: How archives' names end; the content decides what a file is.
ENDINGS = (
    *(".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".tbz2", ".txz"),
    *(".tar", ".zip"),
)
#: Members that an archive may have.
_MOST = 100_000
_BLOCK = 512  # of a tar
_CHUNK = 4 << 20

_Kind = Literal["zip", "tar", "gzip", "bzip2", "xz", ""]
_OPENERS: Mapping[str, Any] = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}
_MAGIC: Mapping[bytes, _Kind] = {
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",  # without members
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
}
#: What damaged archives make Python's readers raise.
_DAMAGE = (
    *(OSError, EOFError, ValueError, KeyError, IndexError, OverflowError, RuntimeError),
    *(NotImplementedError, MemoryError, tarfile.TarError, zipfile.BadZipFile),
    *(lzma.LZMAError, zlib.error),
)


def archive_stem(name: str) -> str:
    """Return an archive's name without its ending; any other name as it is."""
    ending = next((ending for ending in ENDINGS if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)]


def _kind(head: bytes) -> _Kind:
    if head[257:262] == b"ustar":
        return "tar"
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "")


def holds_files(path: AnyPath, head: bytes) -> bool:
    """Return whether a file is an archive of files, not a file of one checkpoint.

    Parameters
    ----------
    path : Path or RemotePath
        The file.
    head : bytes
        Its first bytes.

    Raises
    ------
    CheckpointError
        If it is a damaged or hostile zip file.
    """
    kind = _kind(head)
    if kind == "zip":
        return not _is_one_file(set(Archive(path).members))
    return bool(kind) or path.name.lower().endswith(".tar")  # older than the magic


def _is_one_file(names: set[str]) -> bool:
    """Return whether a zip's members are the parts of one checkpoint: torch's, Keras', NumPy's."""
    tops = {name.partition("/")[0] for name in names}
    if (len(tops) == 1 and f"{min(tops)}/data.pkl" in names) or "model.weights.h5" in names:
        return True
    if any(name.endswith("data/weights/model_weights_config.json") for name in names):
        return True
    # Arrays named like files of a dump (logits_step_100.npy) are files, others an .npz.
    stems = [read_stem(PurePosixPath(name).stem) for name in names]
    arrays = bool(names) and all(name.endswith(".npy") for name in names)
    return arrays and not all(stem.base in ARRAYS and stem.step is not None for stem in stems)


def open_archive(path: AnyPath, *, top: bool = False) -> RemotePath:
    """Return the folder that an archive holds.

    Parameters
    ----------
    path : Path or RemotePath
        The archive.
    top : bool
        Return the root even where all lies in one folder, as in most tars.

    Raises
    ------
    CheckpointError
        If it is damaged, or holds links, devices, encrypted members, names that lead out of it
        or occur twice, or far more bytes than its own size.
    """
    try:
        with path.open("rb", buffering=0) as file:
            kind = _kind(file.read(_BLOCK))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if not kind and path.name.lower().endswith(".tar"):
        kind = "tar"
    if not kind:
        raise CheckpointError(f"{path}: not an archive; expected a zip or tar file")
    try:
        data = path if kind in ("zip", "tar") else _decompressed(path, kind, _stamp(path))
        source = _source(path, data, "zip" if kind == "zip" else "tar", _stamp(data))
        members = source.members  # read and checked here
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    root = RemotePath(source)
    tops = {name.partition("/")[0] for name in members if not name.startswith((".", "__MACOSX/"))}
    only = min(tops) if len(tops) == 1 else ""
    return root / only if only and not top and source.kind(only) == "folder" else root


@cache
def _decompressed(path: AnyPath, kind: _Kind, _version: str) -> Path:
    """Write the plain tar that a compressed one holds among the temporary files, once."""
    near = whole(path)
    size = near.stat().st_size
    most, free = max(FREE, RATIO * size), room_for(0, path)
    target = temporary_file(f"{archive_stem(path.name)}.tar")
    count = 0
    try:
        with near.open("rb") as packed, _OPENERS[kind](packed) as file, target.open("wb") as out:
            while chunk := file.read(_CHUNK):
                if not count and _kind(chunk[:_BLOCK]) != "tar":
                    raise CheckpointError(
                        f"{path}: a compressed file, but no tar in it; decompress it first "
                        f"({kind} -d)"
                    )
                count += len(chunk)
                if count > most:
                    raise CheckpointError(
                        f"{path}: it expands from {size} bytes to more than {most}; refused as a "
                        "bomb. Unpack it yourself if it is meant."
                    )
                if count > free:
                    room_for(count, path)
                out.write(chunk)
    except CheckpointError:
        target.unlink(missing_ok=True)
        raise
    except _DAMAGE as error:
        target.unlink(missing_ok=True)
        raise _damaged(path, error) from error
    return target


def _damaged(path: AnyPath, error: BaseException) -> CheckpointError:
    return CheckpointError(
        f"{path}: truncated or damaged archive ({type(error).__name__}: {error}); copy or make it "
        "again"
    )


class _Member(NamedTuple):
    """Where a file lies: its first byte in a tar, -1 in a zip; its size; whether as it is."""

    start: int
    size: int
    plain: bool
    label: str  # as the archive spells it


class ArchiveSource(Source):
    """The files in an archive.

    Parameters
    ----------
    path : Path or RemotePath
        The archive, for messages.
    data : Path or RemotePath
        Where its bytes are: `path`, or the plain tar that it was decompressed to.
    kind : {"zip", "tar"}
        What `data` is.
    version : str
        Changes when `data` does.
    """

    def __init__(
        self, path: AnyPath, data: AnyPath, kind: Literal["zip", "tar"], version: str
    ) -> None:
        super().__init__()
        self.path, self.data, self.packing, self.version = path, data, kind, version
        self.name = archive_stem(path.name)

    def __reduce__(self) -> tuple[Any, ...]:
        return _source, (self.path, self.data, self.packing, self.version)

    def spell(self, inside: str) -> str:
        """Return the archive's path and the member's."""
        return f"{self.path}/{inside}" if inside else str(self.path)

    @cached_property
    def members(self) -> dict[str, _Member]:
        """Files by path."""
        found = self._zipped() if self.packing == "zip" else self._tarred()
        return dict(self._checked(found))

    @cached_property
    def _zip(self) -> Archive:
        return Archive(self.data)

    def _zipped(self) -> Iterator[tuple[str, _Member, bool]]:
        for name, info in self._zip.members.items():
            mode = info.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise self._refused(name, "a link or device")
            if info.flag_bits & 0x1:
                raise self._refused(name, "encrypted")
            plain = info.compress_type == zipfile.ZIP_STORED
            yield name, _Member(-1, info.file_size, plain, name), info.is_dir()

    def _tarred(self) -> Iterator[tuple[str, _Member, bool]]:
        size = self.data.stat().st_size
        try:
            with self.data.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
                end = 0
                for info in archive:
                    if not info.isdir() and (not info.isreg() or info.issparse()):
                        raise self._refused(info.name, "a link, a device or a sparse file")
                    end = info.offset_data + -(-info.size // _BLOCK) * _BLOCK
                    if end > size:
                        break
                    member = _Member(info.offset_data, info.size, True, info.name)
                    yield info.name, member, info.isdir()
                file.seek(end)
                if file.read(_BLOCK) != bytes(_BLOCK):  # what every tar ends with
                    raise EOFError(f"{size} bytes, and the end is missing")
        except CheckpointError:
            raise
        except _DAMAGE as error:
            raise _damaged(self.path, error) from error

    def _refused(self, name: str, why: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: its member {name!r} is {why}, which is not followed; make the archive "
            "again of plain files"
        )

    def _checked(self, found: Iterable[tuple[str, _Member, bool]]) -> Iterator[tuple[str, _Member]]:
        """Yield files under plain paths; refuse names that lead out or occur twice."""
        files: set[str] = set()
        folders: set[str] = set()
        for count, (name, member, is_folder) in enumerate(found):
            if count >= _MOST:
                raise CheckpointError(f"{self.path}: it has more than {_MOST} members; refused")
            parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
            leads_out = name.startswith(("/", "\\")) or ".." in parts or ":" in name[1:2]
            if leads_out or "\0" in name:
                raise self._refused(name, "named so as to lie outside the archive")
            path = "/".join(parts)
            folders.update("/".join(parts[:i]) for i in range(1, len(parts)))
            if is_folder:
                folders.add(path)
                continue
            if path in files or not path:
                raise CheckpointError(
                    f"{self.path}: it names {name!r} twice, so which is meant cannot be told; make "
                    "the archive again"
                )
            files.add(path)
            yield path, member
        if both := files & folders:
            raise CheckpointError(
                f"{self.path}: it names {min(both)!r} both as a file and as a folder; make the "
                "archive again"
            )

    @cached_property
    def _folders(self) -> dict[str, dict[str, bool]]:
        found: dict[str, dict[str, bool]] = {"": {}}
        for path in self.members:
            is_folder = False
            while path:
                folder, _, name = path.rpartition("/")
                known = name in found.setdefault(folder, {})
                found[folder][name] = is_folder
                if known:
                    break
                path, is_folder = folder, True
        return found

    def listing(self, folder: str) -> Mapping[str, bool]:
        """Return what lies in a folder; see `Source.listing`."""
        if folder not in self._folders:
            raise NotADirectoryError(f"{self.spell(folder)} is no folder")
        return self._folders[folder]

    def kind(self, inside: str) -> Literal["file", "folder", ""]:
        """Return what lies at a path; see `Source.kind`."""
        if inside in self._folders:
            return "folder"
        return "file" if inside in self.members else ""

    def _member(self, inside: str) -> _Member:
        if inside not in self.members:
            raise FileNotFoundError(f"{self.spell(inside)}: there is no such file in the archive")
        return self.members[inside]

    def size(self, inside: str) -> int:
        """Return a file's size; see `Source.size`."""
        return self._member(inside).size

    def stamp(self, inside: str) -> str:
        """Return what changes with a file; see `Source.stamp`."""
        return f"{self.version} {self._member(inside)}"

    def near(self, inside: str) -> bool:
        """Return whether a file lies as it is in an archive on this machine."""
        return isinstance(self.data, Path) and self._member(inside).plain

    def open(self, inside: str) -> io.RawIOBase:
        """Return a file; see `Source.open`."""
        member = self._member(inside)
        if not member.plain:
            return local_copy(RemotePath(self, inside)).open("rb", buffering=0)
        start = member.start if member.start >= 0 else self._zip.place(member.label)[0]
        return Window(self.data.open("rb", buffering=0), start, member.size)

    def chunks(self, inside: str) -> Iterator[bytes]:
        """Yield all bytes of a file in order; see `Source.chunks`."""
        member = self._member(inside)
        if member.plain:
            with io.BufferedReader(self.open(inside), _CHUNK) as file:
                yield from _chunks(file)
            return
        try:
            with (
                self.data.open("rb", buffering=_CHUNK) as data,
                zipfile.ZipFile(data) as archive,
                archive.open(member.label) as file,
            ):
                yield from _chunks(file)
        except _DAMAGE as error:
            raise _damaged(self.path, error) from error


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk


def _stamp(path: AnyPath) -> str:
    if isinstance(path, RemotePath):
        return path.source.stamp(path.inside)
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


@lru_cache(maxsize=4)
def _source(
    path: AnyPath, data: AnyPath, kind: Literal["zip", "tar"], version: str
) -> ArchiveSource:
    """Keep the last archives' tables of contents: worker processes get one path at a time."""
    return ArchiveSource(path, data, kind, version)
