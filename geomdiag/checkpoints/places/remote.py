"""Addresses (``s3://``, ``gs://``, ``hf://``, ``https://``, ...) → paths, through fsspec.

fsspec (https://filesystem-spec.readthedocs.io) names the packages that speak the protocols and
takes credentials from where these look for them.
"""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

from geomdiag.checkpoints.places.copies import local_copy
from geomdiag.checkpoints.places.paths import AnyPath, RemotePath, Source, Stretch
from geomdiag.errors import CheckpointError

__all__ = ["as_path", "is_address"]

_ADDRESS = re.compile(r"([A-Za-z][\w+.\-]+::)*[A-Za-z][\w+.\-]+://")
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


def is_address(value: object) -> bool:
    """Return whether a text is an address (``protocol://...``) rather than a path."""
    return isinstance(value, str) and bool(_ADDRESS.match(value))


def as_path(value: str | os.PathLike[str] | RemotePath) -> AnyPath:
    """Return the path that a user means.

    Parameters
    ----------
    value : str, path or RemotePath
        A path of this machine, or the address of a file or folder, as text.

    Returns
    -------
    Path or RemotePath

    Raises
    ------
    CheckpointError
        If the address cannot be understood, its package is missing, or nothing lies there.
    """
    if isinstance(value, RemotePath):
        return value
    if not isinstance(value, str) or not is_address(value):
        path = Path(value).expanduser()
        if re.fullmatch(r"[a-z][\w+.\-]+:", "".join(path.parts[:1])) and not path.exists():
            raise CheckpointError(
                f"{path}: there is no such file or folder; give an address as text, not as a "
                "pathlib.Path, which takes a slash away"
            )
        return path
    scheme, _, rest = value.partition("::")
    kind, _, inside = scheme.partition("://")
    if rest and kind in ("zip", "tar"):
        from geomdiag.checkpoints.places.archived import open_archive

        return _inside(open_archive(as_path(rest), top=True), inside)
    return _remote(value)


def _inside(root: RemotePath, inside: str) -> RemotePath:
    path = root / inside
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file or folder in the archive")
    return path


def _remote(address: str) -> AnyPath:
    import fsspec

    address, query = _without_query(address)
    try:
        system, at = fsspec.core.url_to_fs(address)
        system.invalidate_cache()  # what is there now, not what an earlier call saw
    except ImportError as error:
        raise _missing_package(address, error) from error
    except Exception as error:  # each protocol's package has its own errors
        raise CheckpointError(
            f"{address}: this address cannot be opened ({_told(error)}); expected a path, or "
            "protocol://place such as s3://bucket/run or https://server/run/"
        ) from error
    if _protocols(system) & {"file", "local"}:
        return Path(at)
    source = FileSystem.at(system, address, at)
    path = RemotePath(source, source.inside(at))
    if query:
        source.queries[path.inside] = query
    if address.endswith("/"):
        source.known[path.inside] = {"type": "directory"}
    try:
        source.find(path.inside)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file or folder") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be reached: {error}") from error
    return path


def _without_query(address: str) -> tuple[str, str]:
    """Take the query off a web address: it is no part of the file's name."""
    if not address.startswith(("http://", "https://")):
        return address, ""
    plain, mark, query = address.partition("?")
    return plain, mark + query


def _protocols(system: Any) -> set[str]:
    named = system.protocol
    return {named} if isinstance(named, str) else set(named)


def _missing_package(address: str, error: ImportError) -> CheckpointError:
    from fsspec.registry import known_implementations

    protocol = re.findall(r"([\w+.\-]+)://", address)[-1]
    home = known_implementations.get(protocol, {}).get("class", "").partition(".")[0]
    if protocol in ("http", "https"):
        advice = "pip install 'geomdiag[remote]' (aiohttp)"
    elif home and home != "fsspec":
        advice = f"pip install {home}"
    else:
        advice = f"see {error}"
    return CheckpointError(
        f"{address}: reading {protocol}:// needs a package that is not installed ({error}). "
        f"Install it with: {advice}"
    )


def _told(error: BaseException) -> str:
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
        raise OSError(_told(error)) from error


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
        self.web = bool(_protocols(system) & {"http", "https"})
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
                raise PermissionError(_told(error)) from error
            if status not in (404, 410):
                raise OSError(_told(error)) from error
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
