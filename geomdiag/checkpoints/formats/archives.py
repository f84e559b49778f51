"""Zip archives that hold checkpoints: their members, checked, and where their bytes lie."""

from __future__ import annotations

import zipfile
from typing import IO

from geomdiag.checkpoints.places.paths import AnyPath
from geomdiag.errors import CheckpointError

__all__ = ["FREE", "RATIO", "Archive", "first_member"]

#: What zipfile raises on damaged files.
_DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    IndexError,
    OverflowError,
    MemoryError,
    RuntimeError,
    NotImplementedError,
    zipfile.BadZipFile,
    zipfile.zlib.error,  # type: ignore[attr-defined]
)
#: A member may grow to this many bytes whatever its compressed size,
FREE = 64 << 20
#: and beyond that to this many times its compressed size.
RATIO = 100
#: Bytes of a table of contents: some 150,000 members. zipfile holds ten times as much of it.
_CONTENTS = 16 << 20


def first_member(head: bytes) -> bytes:
    """Return the name of a zip archive's first member, as far as `head` reaches; else empty."""
    if not head.startswith(b"PK\x03\x04") or len(head) < 30:
        return b""
    return head[30 : 30 + int.from_bytes(head[26:28], "little")]


def _described(file: IO[bytes], size: int) -> int:
    """Return the bytes of a zip file's table of contents, as far as its end says; else 0."""
    for reach in (42, (1 << 16) + 42):  # a comment of up to 64 KiB may follow
        start = max(0, size - reach)
        file.seek(start)
        tail = file.read(size - start)
        at = tail.rfind(b"PK\x05\x06")
        if at >= 0:
            break
    else:
        return 0
    told = int.from_bytes(tail[at + 12 : at + 16], "little")
    if told < 0xFFFFFFFF or tail[at - 20 : at - 16] != b"PK\x06\x07":
        return told
    file.seek(min(int.from_bytes(tail[at - 12 : at - 4], "little"), size))
    large = file.read(56)
    return int.from_bytes(large[40:48], "little") if large.startswith(b"PK\x06\x06") else told


class Archive:
    """A zip file's members by name.

    Parameters
    ----------
    path : Path or RemotePath
        The file.

    Raises
    ------
    CheckpointError
        If it is no readable zip file, names a member twice, or has a member that would expand
        to far more than its size.
    """

    def __init__(self, path: AnyPath) -> None:
        self.path = path
        self.members: dict[str, zipfile.ZipInfo] = {}
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                described = _described(file, size)
                if described > _CONTENTS:
                    raise CheckpointError(
                        f"{path}: the archive's table of contents has {described} bytes, expected "
                        f"at most {_CONTENTS}; refused. Put its files into several archives."
                    )
                with zipfile.ZipFile(file) as archive:
                    infos = archive.infolist()
        except _DAMAGE as error:
            raise self._damaged(error) from error
        for info in infos:
            if info.filename in self.members:
                raise CheckpointError(
                    f"{path}: the archive names {info.filename!r} twice, so which is meant cannot "
                    "be told; save it again"
                )
            if info.compress_size > size or info.header_offset >= size:
                raise CheckpointError(
                    f"{path}: the member {info.filename!r} is said to lie beyond the file's "
                    f"{size} bytes; truncated or damaged. Save or copy it again."
                )
            if info.file_size > max(FREE, RATIO * info.compress_size):
                raise CheckpointError(
                    f"{path}: the member {info.filename!r} would expand from "
                    f"{info.compress_size} to {info.file_size} bytes; refused as a zip bomb. Save "
                    "it without compression if it is meant."
                )
            self.members[info.filename] = info

    def _damaged(self, error: BaseException) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: truncated or damaged archive ({type(error).__name__}: {error}); save "
            "or copy the file again"
        )

    def read(self, name: str, limit: int = FREE) -> bytes:
        """Return a small member's bytes.

        Raises
        ------
        CheckpointError
            If it is missing, larger than `limit` or damaged.
        """
        info = self._info(name)
        if info.file_size > limit:
            raise CheckpointError(
                f"{self.path}: {name!r} has {info.file_size} bytes, more than the {limit} that "
                "such a header may have; the file is damaged or not what it seems"
            )
        try:
            with self.path.open("rb") as file, zipfile.ZipFile(file) as archive:
                return archive.read(name)
        except _DAMAGE as error:
            raise self._damaged(error) from error

    def _info(self, name: str) -> zipfile.ZipInfo:
        if name not in self.members:
            raise CheckpointError(
                f"{self.path}: the archive lacks {name!r}; save or copy the file again"
            )
        return self.members[name]

    def compressed(self, name: str) -> bool:
        """Return whether a member's bytes are not its values as they are."""
        info = self._info(name)
        return info.compress_type != zipfile.ZIP_STORED or bool(info.flag_bits & 0x1)

    def place(self, name: str) -> tuple[int, int]:
        """Return the byte at which an uncompressed member begins, and its size.

        Raises
        ------
        CheckpointError
            If it is missing, compressed, encrypted or cut off.
        """
        info = self._info(name)
        if self.compressed(name):
            raise CheckpointError(
                f"{self.path}: {name!r} is compressed or encrypted, which its writer never does; "
                "save the file again"
            )
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(info.header_offset)
                header = file.read(30)
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be read: {error}") from error
        if len(header) < 30 or not header.startswith(b"PK\x03\x04"):
            raise CheckpointError(
                f"{self.path}: {name!r} does not begin where the archive says; truncated or "
                "damaged. Save or copy it again."
            )
        lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        return info.header_offset + 30 + lengths, info.file_size

    def suffixed(self, ending: str) -> str | None:
        """Return the name of the only member that ends with `ending`, or None."""
        found = [name for name in self.members if name.endswith(ending)]
        return found[0] if len(found) == 1 else None
