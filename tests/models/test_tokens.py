"""Which tokens stand for a task's elements: ids, ranges, strings through a tokenizer file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from geomdiag.errors import OptionsError
from geomdiag.models.tokens import NAMED_SETS, choose_tokens
from geomdiag.models.vocabulary import read_tokenizer


def vocabulary(folder: Path, *words: str) -> Path:
    path = folder / "vocab.json"
    path.write_text(json.dumps({word: 10 * at for at, word in enumerate(words)}), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("said", "ids"),
    [
        ("15,16,17", (15, 16, 17)),
        ("0:5", (0, 1, 2, 3, 4)),
        (" 7, 2:4 ,9", (7, 2, 3, 9)),
        ([3, 1], (3, 1)),
        (range(2, 5), (2, 3, 4)),
    ],
)
def test_ids_and_ranges_keep_their_order_and_leave_the_end_out(
    said: object, ids: tuple[int, ...]
) -> None:
    assert choose_tokens(said).ids == ids  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("0-99", r"write 0:100 \(the end excluded\)"),
        ("", "cannot be understood; expected token ids"),
        ("month", "cannot be understood.*months, weekdays"),
        ("3:3", "no range"),
        ("5:1", "no range"),
        ("1:2:3", "no range"),
        ("0:999999999", "no range"),
        ("-1", "cannot be understood"),
        ("4,5,4", "token 4 stands for the elements 0 and 2"),
        ([], "no tokens were given"),
        ([1, -2], "hold -2"),
        ([1, "a"], "hold 'a'"),
        ([True, False], "hold True"),
        ([1.5], "hold 1.5"),
    ],
)
def test_what_is_no_choice_is_told(said: object, message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        choose_tokens(said)  # type: ignore[arg-type]


@pytest.mark.parametrize("space", ["Ġ", "▁", " "])
def test_named_words_are_taken_with_a_space_in_front(space: str, tmp_path: Path) -> None:
    days = NAMED_SETS["weekdays"]
    path = vocabulary(tmp_path, *days, *(space + day for day in days))
    found = choose_tokens("days", path)
    assert found.ids == tuple(range(70, 140, 10))
    assert found.strings[0] == " Monday"


def test_words_are_taken_without_a_space_where_not_all_have_one(tmp_path: Path) -> None:
    months = NAMED_SETS["months"]
    path = vocabulary(tmp_path, *months, *("Ġ" + month for month in months[:11]))
    found = choose_tokens("months", path)
    assert found.ids == tuple(range(0, 120, 10))
    assert found.strings == months


def test_numbers_are_words(tmp_path: Path) -> None:
    path = vocabulary(tmp_path, *(f"Ġ{number}" for number in range(12)))
    assert choose_tokens("numbers:0:10", path).ids == tuple(range(0, 100, 10))
    with pytest.raises(OptionsError, match=r"' 12' is not in it.*'0' is not in it.*and 11 more"):
        choose_tokens("numbers:0:13", path)


def test_strings_are_taken_as_they_are(tmp_path: Path) -> None:
    path = vocabulary(tmp_path, "May", "Ġ May", "ĠMay", "a,b")
    assert choose_tokens("strings:May", path).ids == (0,)
    assert choose_tokens('strings:May, " May", "a,b"', path).ids == (0, 20, 30)
    assert choose_tokens("strings:' May','a,b'", path).ids == (20, 30)
    assert choose_tokens([" May", "May"], path).ids == (20, 0)
    with pytest.raises(OptionsError, match="'June' is not in it"):
        choose_tokens("strings:May,June", path)


def test_what_was_chosen_is_recorded(tmp_path: Path) -> None:
    path = vocabulary(tmp_path, "a", "b")
    record = json.loads(choose_tokens("strings:b,a", path).record())
    assert record == {
        "ids": [10, 0],
        "strings": ["b", "a"],
        "said": "strings:b,a",
        "tokenizer": "vocab.json",
        "tokenizer_digest": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def test_signs_that_look_like_ends_of_lines_are_tokens(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    for end in ("\n", "\r\n"):
        path.write_bytes(end.join(["[PAD]", "\u2028", "\x85", "", "red", ""]).encode())
        assert choose_tokens("strings:red,[PAD]", path).ids == (4, 0)


def test_one_token_a_line(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\njanuary\nmay\n", encoding="utf-8")
    assert choose_tokens("strings:may,january", path).ids == (2, 1)
    path.write_text("a\nb\na\n", encoding="utf-8")
    with pytest.raises(OptionsError, match="'a' is there twice"):
        read_tokenizer(path)


@pytest.mark.parametrize("text", ['{"a": "b"}', "{}", '{"a": true}', '{"a"', ""])
def test_other_files_are_no_vocabulary(text: str, tmp_path: Path) -> None:
    path = tmp_path / "vocab.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(OptionsError, match=r"not a (vocabulary|tokenizer)"):
        choose_tokens("months", path)


def test_strings_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match="Give --tokenizer"):
        choose_tokens("months")
    with pytest.raises(OptionsError, match="cannot be read"):
        choose_tokens("months", tmp_path / "absent.json")


# --- tokenizer.json, by the library that defines it ---------------------------------------------


def byte_pairs(folder: Path, texts: list[str]) -> Path:
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.train_from_iterator(
        texts, tokenizers.trainers.BpeTrainer(vocab_size=400, show_progress=False)
    )
    made.enable_padding(length=8)
    path = folder / "tokenizer.json"
    made.save(str(path))
    return path


def test_a_tokenizer_of_byte_pairs(tmp_path: Path) -> None:
    days = NAMED_SETS["weekdays"]
    path = byte_pairs(tmp_path, ["on " + day for day in days] * 50)
    found = choose_tokens("weekdays", path)
    held = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
    assert found.ids == tuple(held["Ġ" + day] for day in days)
    assert choose_tokens('strings:" Sunday",on', path).ids == (held["ĠSunday"], held["on"])
    with pytest.raises(OptionsError, match="' Nonday' is 3 tokens: 'Ġ', 'on', 'day'"):
        choose_tokens('strings:" Nonday"', path)


def test_a_tokenizer_file_without_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    path = tmp_path / "tokenizer.json"
    path.write_text('{"model": {"type": "BPE", "vocab": {}}}', encoding="utf-8")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(OptionsError, match=r"geomdiag\[tokenizers\]"):
        choose_tokens("months", path)


def test_a_damaged_tokenizer_file(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    path = tmp_path / "tokenizer.json"
    path.write_text('{"model": {"type": "nothing"}}', encoding="utf-8")
    with pytest.raises(OptionsError, match="not a tokenizer that can be read"):
        choose_tokens("months", path)
