"""HDF5 files whose global heaps are looked at before the HDF5 library walks along them."""

from __future__ import annotations

import io
from typing import IO, Any

from geomdiag.checkpoints.places.paths import AnyPath
from geomdiag.errors import CheckpointError

__all__ = ["Guarded"]

#: How a global heap begins: signature and version.
_HEAP = b"GCOL\x01"
#: Bytes that a heap of texts may have,
_LONGEST = 64 << 20
#: and that the library reads at once of what are no values, at most.
_METADATA = 64 << 10


class Guarded(io.RawIOBase):
    """A file whose global heaps are looked at before the HDF5 library sees them.

    The library walks along a heap's objects by their sizes, and for ever where one is nought.
    Layout: https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html (III.E).
    """

    def __init__(self, path: AnyPath, file: IO[bytes]) -> None:
        self._path, self._file = path, file
        self._size = file.seek(0, io.SEEK_END)
        self._known: set[int] = set()

    def readable(self) -> bool:
        """Return True: h5py reads it."""
        return True

    def seekable(self) -> bool:
        """Return True: h5py seeks in it."""
        return True

    def tell(self) -> int:
        """Return where the next byte is read."""
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte."""
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as the file goes.

        Raises
        ------
        CheckpointError
            If a heap that was read is damaged.
        """
        start = self._file.tell()
        view = memoryview(buffer).cast("B")
        read = 0
        while count := self._file.readinto(view[read:]):  # type: ignore[attr-defined]
            read += count
        if read <= _METADATA:  # more are values
            held, at = bytes(view[:read]), -1
            while (at := held.find(_HEAP, at + 1)) >= 0:
                self._check(start + at)
            self._file.seek(start + read)
        return read

    def _check(self, at: int) -> None:
        """Refuse the heap at byte `at` if its objects do not lie one after the other."""
        if at in self._known:
            return
        self._known.add(at)
        self._file.seek(at)
        size = int.from_bytes(self._file.read(16)[8:], "little")
        if not 16 <= size <= min(self._size - at, _LONGEST):
            raise self._damaged(f"one of {size} bytes at byte {at} of {self._size}")
        heap = self._file.read(size - 16)
        place = 0
        while place + 16 <= len(heap):
            length = int.from_bytes(heap[place + 8 : place + 16], "little")
            free = heap[place : place + 2] == b"\0\0"
            place += length if free else 16 + length + -length % 8
            if length > len(heap) or (free and length < 16):
                raise self._damaged(f"an object of {length} bytes in one at byte {at}")

    def _damaged(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self._path}: damaged HDF5, in its heaps of texts: {what}. Save or copy it again."
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
