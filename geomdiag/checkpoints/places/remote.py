"""File systems of other machines, as fsspec opens them: listings, sizes, parts of files."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

from geomdiag.checkpoints.places.copies import local_copy
from geomdiag.checkpoints.places.paths import RemotePath, Source, Stretch
from geomdiag.errors import CheckpointError

__all__ = ["FileSystem", "in_words", "protocols"]

#: Facts that change when a file does, by the names that servers and fsspec give them.
_CHANGING_TEXT = (
    "size ETag etag mtime LastModified last_modified Last-Modified updated created Content-MD5 "
    "md5Hash generation blob_id oid sha256"
)
_CHANGING = tuple(_CHANGING_TEXT.split())
#: Seconds after a change in which another may follow unseen; a server's clock may be wrong.
_MOMENT = 10
#: Bytes fetched at a time where a whole file is read.
_CHUNK = 1 << 20


def protocols(system: Any) -> set[str]:
    """Return the protocols that a file system speaks."""
    named = system.protocol
    return {named} if isinstance(named, str) else set(named)


def in_words(error: BaseException) -> str:
    """Return the first line of what went wrong."""
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {(str(cause).splitlines() or [''])[0][:200]}"


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Let whatever a protocol's package raises be an OSError, which the readers expect."""
    try:
        yield
    except (OSError, CheckpointError):
        raise
    except Exception as error:
        raise OSError(in_words(error)) from error


class FileSystem(Source):
    """An fsspec file system.

    Parameters
    ----------
    system : fsspec.AbstractFileSystem
        The file system.
    inner, outer : str
        What stands before a path for `system`, and for people.
    """

    def __init__(self, system: Any, inner: str, outer: str) -> None:
        super().__init__()
        self.system, self.inner, self.outer = system, inner, outer
        self.web = bool(protocols(system) & {"http", "https"})
        self.name = outer.rstrip("/").rpartition("/")[2]
        self.name = "" if self.name.endswith(":") else self.name
        self.queries: dict[str, str] = {}
        self.opened = time.time()
        self._listings: dict[str, dict[str, bool]] = {}
        self._whole_only = False  # the server gives files as a whole

    @classmethod
    def at(cls, system: Any, address: str, at: str) -> FileSystem:
        """Return the source in which an address lies; `at` is its path for `system`."""
        server = re.match(r"[\w+.\-]+://[^/]*/?|/", at)
        inner = server[0] if server else ""
        path = at[len(inner) :].rstrip("/")
        if not path:
            outer = address if address.endswith("/") else f"{address}/"
        elif address.rstrip("/").endswith(path):
            outer = address.rstrip("/").removesuffix(path)
        else:  # a protocol with its own idea of what a path is
            outer = f"{address.partition('://')[0]}://"
        if inner and not inner.endswith("/"):  # a server without a path
            inner += "/"
        return cls(system, inner, outer)

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process lists for itself.
        return _remade, (self.system, self.inner, self.outer, self.queries, self.opened)

    def inside(self, at: str) -> str:
        """Return the path inside of a path for `system`."""
        return at[len(self.inner) :].strip("/")

    def spell(self, inside: str) -> str:
        """Return the address."""
        return f"{self.outer}{inside}"

    def _at(self, inside: str) -> str:
        return f"{self.inner}{inside}{self.queries.get(inside, '')}"

    def listing(self, folder: str) -> Mapping[str, bool]:
        """Return what lies in a folder; see `Source.listing`."""
        if folder not in self._listings:
            at = self._at(folder)
            if self.web:  # without the slash a link in the page would mean another place
                at = f"{at.rstrip('/')}/"
            with _as_os_error():
                rows = self.system.ls(at, detail=True)
            self._listings[folder] = self._children(folder, at, rows)
        return self._listings[folder]

    def _children(self, folder: str, at: str, rows: list[dict[str, Any]]) -> dict[str, bool]:
        if self.web:
            return self._linked(at, rows)
        if len(rows) == 1 and rows[0]["type"] == "file" and _same(rows[0]["name"], at):
            raise NotADirectoryError(f"{self.spell(folder)} is no folder")
        found: dict[str, bool] = {}
        for row in rows:
            name = row["name"].rstrip("/").rpartition("/")[2]
            if name and not _same(row["name"], at):  # object stores list the folder, too
                self.known.setdefault(f"{folder}/{name}".strip("/"), row)
                found[name] = row["type"] == "directory"
        return found

    def _linked(self, at: str, rows: list[dict[str, Any]]) -> dict[str, bool]:
        """Return, of the links on a server's page, those to files and folders below it."""
        found: dict[str, bool] = {}
        for row in rows:
            link = row["name"].removeprefix(at).removeprefix("./")
            name, is_folder = link.rstrip("/"), link.endswith("/")
            if not name or re.search(r"[/?#:]", name):
                continue
            plain = unquote(name)
            name = name if re.search(r"[/?#%\\]", plain) else plain
            found[name] = is_folder or found.get(name, False)
        return found

    def _facts(self, inside: str) -> Mapping[str, Any]:
        """Return what the server says about a file or folder; raises OSError."""
        if inside not in self.known:
            with _as_os_error():
                facts = self._web_facts(inside) if self.web else self.system.info(self._at(inside))
            self.known[inside] = facts
        return self.known[inside]

    def _web_facts(self, inside: str) -> Mapping[str, Any]:
        at = self._at(inside)
        try:
            facts: dict[str, Any] = self.system.info(at)
        except FileNotFoundError as error:  # fsspec's word for whatever went wrong
            status = getattr(error.__cause__, "status", 0)
            if status in (401, 403):
                raise PermissionError(in_words(error)) from error
            if status not in (404, 410):
                raise OSError(in_words(error)) from error
            raise
        if str(facts.get("url", "")).partition("?")[0].endswith("/"):
            facts["type"] = "directory"
        return facts

    def kind(self, inside: str) -> Literal["file", "folder", ""]:
        """Return what lies at a path; see `Source.kind`."""
        if not inside:
            return "folder"
        if inside in self.known:
            return "folder" if self.known[inside]["type"] == "directory" else "file"
        folder, _, name = inside.rpartition("/")
        if self.web and folder not in self._listings:
            try:  # one page tells more than a request for each name
                self.listing(folder)
            except OSError:
                self._listings[folder] = {}
        if listing := self._listings.get(folder):
            return "" if name not in listing else "folder" if listing[name] else "file"
        try:
            return "folder" if self._facts(inside)["type"] == "directory" else "file"
        except FileNotFoundError:
            return ""

    def find(self, inside: str) -> None:
        """Ask the server for a file or folder; raises OSError if it is not there."""
        if not inside or inside in self.known:
            return
        try:
            self._facts(inside)
        except FileNotFoundError:
            if not self.web or not self.listing(inside):  # some servers want the slash
                raise
            self.known[inside] = {"type": "directory"}

    def size(self, inside: str) -> int | None:
        """Return a file's size; see `Source.size`."""
        size = self._facts(inside).get("size")
        return None if size is None else int(size)

    def length(self, inside: str) -> int:
        """Return a file's size; where the server does not say, of its copy; see `Source`."""
        size = self.size(inside)
        return self._copy(inside).stat().st_size if size is None else size

    def stamp(self, inside: str) -> str:
        """Return what changes with a file; see `Source.stamp`."""
        facts = self._facts(inside)
        told = [(key, str(facts[key])) for key in _CHANGING if key in facts]
        if {key for key, _ in told} <= {"size", "Last-Modified"} and self._may_change(facts):
            told.append(("opened", str(self.opened)))  # no copy of an earlier opening is used
        return repr(told)

    def _may_change(self, facts: Mapping[str, Any]) -> bool:
        """Return whether a file may change without its time, which counts seconds, changing."""
        try:
            changed = parsedate_to_datetime(str(facts["Last-Modified"])).timestamp()
        except (KeyError, ValueError):
            return True
        return changed > self.opened - _MOMENT

    def open(self, inside: str) -> io.RawIOBase:
        """Return a file, each read fetching its own bytes; see `Source.open`."""
        size = self.size(inside)
        if size is None or self._whole_only or self._facts(inside).get("partial") is False:
            return self.open_copy(inside)
        options = {"size": size} if self.web else {}  # it would ask again
        with _as_os_error():
            file = self.system.open(
                self._at(inside), "rb", block_size=_CHUNK, cache_type="none", **options
            )
        return _Ranges(self, inside, file, size)

    def open_copy(self, inside: str) -> io.RawIOBase:
        """Return a whole copy of the file, opened."""
        return self._copy(inside).open("rb", buffering=0)

    def _copy(self, inside: str) -> Path:
        return local_copy(RemotePath(self, inside))

    def no_ranges(self) -> None:
        """Note that the server gives files as a whole only."""
        self._whole_only = True

    def chunks(self, inside: str) -> Iterator[bytes]:
        """Yield all bytes of a file in order; see `Source.chunks`."""
        # One request for all, and none for the size.
        options = {"block_size": 0, "size": self.size(inside)} if self.web else {}
        with (
            _as_os_error(),
            self.system.open(self._at(inside), "rb", **options) as file,
        ):
            while chunk := file.read(_CHUNK):
                yield chunk


def _same(one: str, two: str) -> bool:
    return one.strip("/") == two.strip("/")


def _remade(
    system: Any, inner: str, outer: str, queries: dict[str, str], opened: float
) -> FileSystem:
    source = FileSystem(system, inner, outer)
    source.queries, source.opened = queries, opened
    return source


class _Ranges(Stretch):
    """A file of which each read fetches its own bytes, no more."""

    def __init__(self, source: FileSystem, inside: str, file: Any, size: int) -> None:
        super().__init__(size)
        self._source, self._inside, self._file = source, inside, file

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._size - self._at))
        if not count:
            return 0
        with _as_os_error():
            try:
                self._file.seek(self._at)
                data = self._file.read(count)
            except ValueError:  # how fsspec says that the server ignores ranges
                self._source.no_ranges()
                self._file.close()
                self._file = self._source.open_copy(self._inside)
                self._file.seek(self._at)
                data = self._file.read(count)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
