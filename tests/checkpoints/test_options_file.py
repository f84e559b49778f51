"""`geomdiag.toml` beside the runs: what it may say, which one wins, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from geomdiag.checkpoints import open_runs
from geomdiag.checkpoints.beside.options import OPTIONS_FILE, Options, flat_map, read_options
from geomdiag.errors import OptionsError


def say(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / OPTIONS_FILE
    path.write_text(text, encoding="utf-8")
    return path


def save(folder: Path, step: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{step}.safetensors"
    save_file({"embed.weight": np.ones((7, 3), np.float32)}, path)
    return path


def test_every_key(tmp_path: Path) -> None:
    path = say(
        tmp_path,
        """
        task = "group:Z12"
        split = "python:seed=0,fraction=0.3"
        model = "package.module:factory"
        tokens = "months"
        tokenizer = "tokenizer.json"

        [map]
        embedding = "encoder.tok.weight"
        unembedding.columns = "head"
        """,
    )
    found = read_options([tmp_path])
    assert found == Options(
        task="group:Z12",
        split="python:seed=0,fraction=0.3",
        model="package.module:factory",
        tokens="months",
        tokenizer="tokenizer.json",
        mapping={"embedding": "encoder.tok.weight", "unembedding.columns": "head"},
        files=dict.fromkeys(("task", "split", "model", "tokens", "tokenizer", "mapping"), path),
    )


def test_paths_in_it_are_relative_to_it(tmp_path: Path) -> None:
    say(tmp_path, 'tokenizer = "tokenizer.json"\nsplit = "split.json"\ntokens = [3, 4]\n')
    for name in ("tokenizer.json", "split.json"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    found = read_options([tmp_path])
    assert found.tokenizer == tmp_path / "tokenizer.json"
    assert found.split == tmp_path / "split.json"
    assert found.tokens == (3, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks = 'modadd'", r"unknown key 'tasks'; known: task, split.*Did you mean 'task'"),
        ("task = 3", "task is 3; expected a text such as"),
        ("task = ''", "expected a text"),
        ("tokens = [1, 'a']", "tokens is"),
        ("tokens = []", "tokens is"),
        ("tokens = [true]", "tokens is"),
        ("map = 'embedding=a'", "expected the name of a tensor"),
        ("[map]\nembedding = 3", "'embedding' the value 3"),
        ("[map]\nembedding.rows.more = 'a'", "the value {'more'"),
        ("task = ", "not TOML"),
        ("task = 'a'\ntask = 'b'", "not TOML"),
    ],
)
def test_what_cannot_be_understood_is_told(text: str, message: str, tmp_path: Path) -> None:
    path = say(tmp_path, text)
    save(tmp_path)
    with pytest.raises(OptionsError, match=message) as caught:
        open_runs(tmp_path)
    assert str(path) in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / OPTIONS_FILE
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(OptionsError, match="not TOML"):
        read_options([tmp_path])
    path.write_bytes(b"#" * (1 << 21))
    with pytest.raises(OptionsError, match="more than"):
        read_options([tmp_path])


def test_the_nearer_one_wins_key_by_key(tmp_path: Path) -> None:
    outer = say(tmp_path, 'task = "modadd:p=7"\ntokens = "0:7"\n')
    inner = say(tmp_path / "b/seed=1", 'task = "group:Z7"\n')
    say(tmp_path.parent / "aside", 'task = "never"')
    for name in ("a/seed=0", "b/seed=0", "b/seed=1"):
        save(tmp_path / name)
    runs = open_runs(tmp_path)
    said = {name: (run.options.task, run.options.tokens) for name, run in runs.items()}
    assert said == {
        "a/seed=0": ("modadd:p=7", "0:7"),
        "b/seed=0": ("modadd:p=7", "0:7"),
        "b/seed=1": ("group:Z7", "0:7"),
    }
    assert runs["b/seed=1"].options.files == {"task": inner, "tokens": outer}


@pytest.mark.parametrize("opened", ["", "step_1.safetensors", "checkpoints"])
def test_it_is_found_from_the_file_and_from_the_folder_of_checkpoints(
    opened: str, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    say(folder, 'task = "group:Z7"\n')
    save(folder / "checkpoints" if opened == "checkpoints" else folder)
    (run,) = open_runs(folder / opened).values()
    assert run.options.task == "group:Z7"


def test_its_split_counts_and_the_callers_more(tmp_path: Path) -> None:
    say(tmp_path, 'split = "python:seed=0,fraction=0.5"\n')
    save(tmp_path)
    (run,) = open_runs(tmp_path).values()
    assert run.split is not None
    assert run.split.value["fraction"] == 0.5
    (run,) = open_runs(tmp_path, split="python:seed=0,fraction=0.25").values()
    assert run.split is not None
    assert run.split.value["fraction"] == 0.25


def test_its_split_may_be_a_file_beside_it(tmp_path: Path) -> None:
    say(tmp_path, 'split = "rows.json"\n')
    (tmp_path / "rows.json").write_text("[0, 3, 5]", encoding="utf-8")
    save(tmp_path)
    (run,) = open_runs(tmp_path).values()
    assert run.split is not None
    assert run.split.mask(np.zeros((6, 2), int)).tolist() == [1, 0, 0, 1, 0, 1]


def test_a_map_may_be_nested_or_not() -> None:
    assert flat_map({"embedding": {"rows": "a"}, "unembedding": "b"}, "x") == {
        "embedding.rows": "a",
        "unembedding": "b",
    }
