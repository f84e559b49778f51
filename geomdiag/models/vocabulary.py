"""A file beside a language model that says which token id a string has."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from geomdiag.errors import OptionsError

if TYPE_CHECKING:
    from geomdiag.checkpoints.places.paths import AnyPath

__all__ = ["TOKENIZER_FILES", "Tokenizer", "read_tokenizer"]

#: What such a file is called where a model is kept, first choice first.
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt")
#: How vocabularies spell the space before a word: GPT-2's byte pairs, SentencePiece, plainly.
_SPACES = ("Ġ", "▁", " ")
#: The largest vocabularies take some 35 MB.
_LIMIT = 256 << 20


class _Pieces(Protocol):
    """What turns a string into tokens: their ids and how they are spelled."""

    def __call__(self, text: str) -> list[tuple[int, str]]: ...


@dataclass(frozen=True)
class Tokenizer:
    """Strings to token ids.

    Attributes
    ----------
    name : str
        The file's name.
    digest : str
        sha256 of the file, hexadecimal.
    pieces : callable
        String to (id, spelling) of each token it is cut into; no pieces if it cannot be cut.
    """

    name: str
    digest: str
    pieces: _Pieces = field(repr=False)

    def single(self, text: str) -> int | None:
        """Return the id of a string that is one token, else None."""
        found = self.pieces(text)
        return found[0][0] if len(found) == 1 else None

    def shown(self, text: str) -> str:
        """Return what a string is cut into, for a message."""
        found = self.pieces(text)
        if not found:
            return f"{text!r} is not in it"
        return f"{text!r} is {len(found)} tokens: {', '.join(repr(piece) for _, piece in found)}"


def read_tokenizer(path: AnyPath) -> Tokenizer:
    """Read a tokenizer file; nothing in it is executed.

    Parameters
    ----------
    path : Path
        ``tokenizer.json`` of Hugging Face's tokenizers (needs that package), a JSON object
        from token to id (``vocab.json``), or a text file with one token a line, ids from 0.
        From the latter two strings are looked up as they are, a space in front as ``Ġ``, ``▁``
        or itself.

    Returns
    -------
    Tokenizer

    Raises
    ------
    OptionsError
        If the file cannot be read or is of another kind, or the package is missing.
    """
    try:
        if path.stat().st_size > _LIMIT:
            raise OptionsError(f"{path}: has more than {_LIMIT >> 20} MB; not a tokenizer file")
        data = path.read_bytes()
    except OSError as error:
        raise OptionsError(f"{path}: the tokenizer cannot be read: {error}") from error
    try:
        text = data.decode("utf-8")
        held = json.loads(text) if text.lstrip()[:1] == "{" else _lines(text)
    except (ValueError, RecursionError) as error:
        raise OptionsError(
            f"{path}: not a tokenizer ({type(error).__name__}: {error}); expected tokenizer.json, "
            "a JSON object from token to id, or one token a line"
        ) from error
    digest = hashlib.sha256(data).hexdigest()
    if isinstance(held, dict) and isinstance(held.get("model"), dict):
        return Tokenizer(path.name, digest, _of_package(path, text))
    return Tokenizer(path.name, digest, _of_table(path, held))


def _lines(text: str) -> list[str]:
    """Return the tokens, one a line; ``splitlines`` would also cut at signs that are tokens."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines if lines[-1] else lines[:-1]


def _of_package(path: AnyPath, text: str) -> _Pieces:
    try:
        import tokenizers
    except ImportError as error:
        raise OptionsError(
            f"{path}: reading a tokenizer.json needs the package tokenizers: pip install "
            "'geomdiag[tokenizers]'. Or give the token ids, or a vocab.json, which needs none."
        ) from error
    try:
        made: Any = tokenizers.Tokenizer.from_str(text)
        made.no_padding()
        made.no_truncation()
    except Exception as error:  # the package raises plain Exception
        raise OptionsError(f"{path}: not a tokenizer that can be read: {error}") from error

    def pieces(text: str) -> list[tuple[int, str]]:
        found = made.encode(text, add_special_tokens=False)
        return list(zip(found.ids, found.tokens, strict=True))

    return pieces


def _of_table(path: AnyPath, held: dict[str, Any] | Sequence[str]) -> _Pieces:
    ids = held if isinstance(held, dict) else {token: at for at, token in enumerate(held)}
    if not ids or any(isinstance(one, bool) or not isinstance(one, int) for one in ids.values()):
        raise OptionsError(
            f"{path}: not a vocabulary; expected tokenizer.json, a JSON object from token to id, "
            "or one token a line"
        )
    if not isinstance(held, dict) and len(ids) < len(held):
        twice = next(token for at, token in enumerate(held) if ids[token] != at)
        raise OptionsError(f"{path}: the token {twice!r} is there twice; one a line, each once")

    def pieces(text: str) -> list[tuple[int, str]]:
        spelled = [space + text[1:] for space in _SPACES] if text.startswith(" ") else [text]
        return [(ids[one], one) for one in spelled if one in ids][:1]

    return pieces
