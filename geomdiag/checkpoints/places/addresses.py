"""Addresses (``s3://``, ``gs://``, ``hf://``, ``https://``, ...) → paths, through fsspec.

fsspec (https://filesystem-spec.readthedocs.io) names the packages that speak the protocols and
takes credentials from where these look for them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from geomdiag.checkpoints.places.paths import AnyPath, RemotePath
from geomdiag.checkpoints.places.remote import FileSystem, in_words, protocols
from geomdiag.errors import CheckpointError

__all__ = ["as_path", "is_address"]

_ADDRESS = re.compile(r"([A-Za-z][\w+.\-]+::)*[A-Za-z][\w+.\-]+://")


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
            f"{address}: this address cannot be opened ({in_words(error)}); expected a path, or "
            "protocol://place such as s3://bucket/run or https://server/run/"
        ) from error
    if protocols(system) & {"file", "local"}:
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
