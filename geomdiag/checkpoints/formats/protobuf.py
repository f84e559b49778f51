"""Protocol-buffer messages gone through field by field, without reading what they hold.

The encoding: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from geomdiag.checkpoints.places.paths import AnyPath
from geomdiag.errors import CheckpointError

__all__ = ["Scanner"]

#: Bytes of a name or another short text.
_SHORT = 1 << 16


class Scanner:
    """Walks over the fields of messages in a file.

    Parameters
    ----------
    path : Path or RemotePath
        For messages.
    file : binary file
        Seekable.
    size : int
        Its bytes.
    """

    def __init__(self, path: AnyPath, file: IO[bytes], size: int) -> None:
        self.path, self._file, self.size = path, file, size

    def fields(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield (number, value, 0) of each number, (number, start, end) of each stretch.

        Raises
        ------
        CheckpointError
            If a field ends outside the message.
        ValueError
            If a field is of no known kind.
        """
        at = start
        while at < end:
            key, at = self.varint(at, end)
            number, kind = key >> 3, key & 7
            if kind == 0:
                value, at = self.varint(at, end)
                yield number, value, 0
                continue
            if kind == 2:
                length, at = self.varint(at, end)
            else:
                length = {1: 8, 5: 4}.get(kind, -1)
            if length < 0 or number == 0:
                raise ValueError(f"a field {number} of the unknown kind {kind}")
            if at + length > end:
                raise CheckpointError(
                    f"{self.path}: truncated or damaged, a field ends at byte {at + length} of "
                    f"{end}; copy or export the file again"
                )
            yield number, at, at + length
            at += length

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """Return the number that begins at `at`, and where it ends."""
        self._file.seek(at)
        value = 0
        for i, byte in enumerate(self._file.read(max(0, min(10, end - at)))):
            value |= (byte & 0x7F) << (7 * i)
            if byte < 0x80:
                return value, at + i + 1
        raise CheckpointError(
            f"{self.path}: truncated or damaged, a number ends nowhere; copy or export it again"
        )

    def integers(self, start: int, end: int) -> list[int]:
        """Return packed integers."""
        if end - start > _SHORT:
            raise ValueError(f"{end - start} bytes of sizes")
        found = []
        while start < end:
            value, start = self.varint(start, end)
            found.append(value)
        return found

    def text(self, start: int, end: int) -> str:
        """Return a short text."""
        if end - start > _SHORT:
            raise ValueError(f"a name of {end - start} bytes")
        self._file.seek(start)
        return self._file.read(end - start).decode("utf-8")

    def pair(self, start: int, end: int) -> tuple[str, str]:
        """Return a key and its value."""
        held = {number: (a, b) for number, a, b in self.fields(start, end)}
        return self.text(*held[1]), self.text(*held[2]) if 2 in held else ""
