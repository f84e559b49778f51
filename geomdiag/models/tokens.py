"""Which tokens of a vocabulary stand for the elements of a task, in the task's order."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geomdiag.errors import OptionsError
from geomdiag.models.vocabulary import Tokenizer, read_tokenizer

if TYPE_CHECKING:
    from geomdiag.checkpoints.places.paths import AnyPath

__all__ = ["NAMED_SETS", "Tokens", "choose_tokens"]

#: Words that are looked up together, each with a space in front or none with one.
NAMED_SETS: dict[str, tuple[str, ...]] = {
    "months": (
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ),
    "weekdays": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
}
NAMED_SETS["days"] = NAMED_SETS["weekdays"]

_FORMS = (
    "token ids such as 15,16,17 or 0:100 (100 is not among them), a set "
    f"({', '.join(NAMED_SETS)}, numbers:0:100), or strings:' January',' February'"
)
#: More rows than this no task has.
_MOST = 1_000_000


@dataclass(frozen=True)
class Tokens:
    """Rows of a vocabulary, element 0 of the task first.

    Attributes
    ----------
    ids : tuple of int
        Their numbers.
    strings : tuple of str
        What they spell; empty where only ids were given.
    said : str
        How they were asked for.
    tokenizer, digest : str
        Name and sha256 of the file that gave the ids; empty where none was needed.
    """

    ids: tuple[int, ...]
    strings: tuple[str, ...] = ()
    said: str = ""
    tokenizer: str = ""
    digest: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    def shown(self) -> str:
        """Return the first of them for people."""
        spelled = [repr(text) for text in self.strings] or [""] * len(self.ids)
        texts = [f"{text} {one}".strip() for text, one in zip(spelled, self.ids, strict=True)]
        return ", ".join(texts[:4]) + (", ..." if len(texts) > 4 else "")

    def record(self) -> str:
        """Return all of it as JSON, for a result's attributes."""
        return json.dumps(
            {
                "ids": list(self.ids),
                "strings": list(self.strings),
                "said": self.said,
                "tokenizer": self.tokenizer,
                "tokenizer_digest": self.digest,
            },
            ensure_ascii=False,
        )


def choose_tokens(
    said: str | Iterable[int] | Iterable[str], tokenizer: str | AnyPath | None = None
) -> Tokens:
    """Return the tokens that a person asked for.

    Parameters
    ----------
    said : str or sequence of int or of str
        ``"15,16,17"`` and ``"0:100"`` are token ids, the end of a range excluded, as in
        Python. ``"months"``, ``"weekdays"`` (also ``"days"``) and ``"numbers:0:100"`` are
        words, taken with a space in front if each is one token so, else without.
        ``"strings:January, February"`` are strings as they are; one in double quotes may
        begin with a space or hold a comma. A sequence holds ids, or strings as they are.
    tokenizer : path, optional
        What turns strings into ids; see `read_tokenizer`. Needed for strings.

    Returns
    -------
    Tokens

    Raises
    ------
    OptionsError
        If the text has another form, a string is not one token (the message shows its
        pieces), a token is there twice, or the tokenizer is missing or cannot be read.

    Examples
    --------
    >>> choose_tokens("5,10:13").ids
    (5, 10, 11, 12)
    """
    if isinstance(said, str):
        chosen = _of_text(said.strip(), tokenizer)
    else:
        listed: list[Any] = list(said)
        if listed and all(isinstance(one, str) for one in listed):
            chosen = _of_strings(listed, [""], json.dumps(listed, ensure_ascii=False), tokenizer)
        else:
            chosen = Tokens(_ids(listed), said=", ".join(map(str, listed)))
    if not chosen.ids:
        raise OptionsError(f"no tokens were given; expected {_FORMS}")
    first = {one: at for at, one in reversed(list(enumerate(chosen.ids)))}
    if len(first) < len(chosen.ids):
        again = next(at for at, one in enumerate(chosen.ids) if first[one] != at)
        twice = chosen.ids[again]
        places = [first[twice], again]
        names = [repr(chosen.strings[at]) for at in places] if chosen.strings else []
        spelled = f" ({', '.join(names)})" if names else ""
        raise OptionsError(
            f"the token {twice}{spelled} stands for the elements {places[0]} and {places[1]}; each "
            "element needs a token of its own"
        )
    return chosen


def _of_text(said: str, tokenizer: str | AnyPath | None) -> Tokens:
    kind, colon, rest = said.partition(":")
    if said in NAMED_SETS:
        return _of_strings(NAMED_SETS[said], [" ", ""], said, tokenizer)
    if kind == "numbers" and colon:
        words = [str(number) for number in _range(rest, said)]
        return _of_strings(words, [" ", ""], said, tokenizer)
    if kind == "strings" and colon:
        return _of_strings(_split(rest), [""], said, tokenizer)
    ids: list[int] = []
    for piece in said.split(","):
        text = piece.strip()
        if re.fullmatch(r"\d{1,9}", text):
            ids.append(int(text))
        elif ":" in text and re.fullmatch(r"[\d:]+", text):
            ids += _range(text, said)
        elif meant := re.fullmatch(r"(\d{1,9})\s*-\s*(\d{1,9})", text):
            raise OptionsError(
                f"the tokens {said!r} have a range with '-'; write {meant[1]}:{int(meant[2]) + 1} "
                f"(the end excluded) for {meant[1]} to {meant[2]}"
            )
        else:
            raise OptionsError(f"the tokens {said!r} cannot be understood; expected {_FORMS}")
    return Tokens(tuple(ids), said=said)


def _range(text: str, said: str) -> range:
    match = re.fullmatch(r"(\d{1,9}):(\d{1,9})", text.strip())
    if not match or not int(match[1]) < int(match[2]) <= int(match[1]) + _MOST:
        raise OptionsError(
            f"{text!r} in the tokens {said!r} is no range; expected start:end with the end "
            "excluded, such as 0:100 for 0 to 99"
        )
    return range(int(match[1]), int(match[2]))


def _split(text: str) -> list[str]:
    """Cut at commas; double quotes keep what is inside, single ones serve where they open."""
    single = text.strip().startswith("'")
    return next(csv.reader([text.strip()], skipinitialspace=True, quotechar="'" if single else '"'))


def _ids(listed: Sequence[Any]) -> tuple[int, ...]:
    ids: list[int] = []
    for one in listed:
        whole = hasattr(one, "__index__") and not isinstance(one, bool)
        if not whole or one.__index__() < 0:
            raise OptionsError(
                f"the tokens hold {one!r}; expected token ids from 0 on, or strings, not both"
            )
        ids.append(one.__index__())
    return tuple(ids)


def _of_strings(
    words: Sequence[str], fronts: Sequence[str], said: str, path: str | AnyPath | None
) -> Tokens:
    """Return the tokens of words, all with the first of `fronts` with which each is one token."""
    if path is None:
        raise OptionsError(
            f"the tokens {said!r} are strings: what turns them into token ids? Give --tokenizer "
            "with the model's tokenizer.json, vocab.json (token to id) or a file with one token a "
            "line"
        )
    tokenizer = read_tokenizer(Path(path) if isinstance(path, str) else path)
    misses: list[str] = []
    for front in fronts:
        strings = [front + word for word in words]
        found = [tokenizer.single(text) for text in strings]
        ids = tuple(one for one in found if one is not None)
        if len(ids) == len(strings):
            return Tokens(ids, tuple(strings), said, tokenizer.name, tokenizer.digest)
        misses.append(_missing(tokenizer, strings, found))
    raise OptionsError(
        f"the tokens {said!r} are not one token each in {tokenizer.name}: "
        f"{'; '.join(misses)}. Choose other strings, or give token ids."
    )


def _missing(tokenizer: Tokenizer, strings: Sequence[str], found: Sequence[int | None]) -> str:
    cut = [text for text, one in zip(strings, found, strict=True) if one is None]
    more = f" (and {len(cut) - 2} more)" if len(cut) > 2 else ""
    return ", ".join(tokenizer.shown(text) for text in cut[:2]) + more
