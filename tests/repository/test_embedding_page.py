"""The page on embeddings by themselves: its code, commands and file run as they stand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from geomdiag.checkpoints.beside.options import OPTIONS_FILE, read_options
from geomdiag.models.tokens import NAMED_SETS
from geomdiag_cli.app import app

PAGE = Path(__file__).resolve().parents[2] / "docs/embedding-only.md"


def blocks(language: str) -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_the_months_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    make, measure = blocks("python")
    command, mapped = (block.removeprefix("$ geomdiag ").strip() for block in blocks("console"))
    (options,) = blocks("toml")
    exec(compile(make, "embedding-only.md", "exec"), {})
    done = CliRunner().invoke(app, [*shlex.split(command), "--analyzers", "spectrum,circle"])
    assert done.exit_code == 0, done.output
    said = re.search(r"prints, among other lines, `(.*?)`", PAGE.read_text(encoding="utf-8"))
    assert said is not None
    assert " ".join(said[1].split()) in " ".join(done.stdout.split())
    names: dict[str, Any] = {}
    exec(compile(measure, "embedding-only.md", "exec"), names)
    value = names["run"]["circle"].sel(block="k=1", measure="circularity")
    assert float(value) == pytest.approx(1, abs=1e-6)
    (tmp_path / "gpt2" / OPTIONS_FILE).write_text(options, encoding="utf-8")
    alone = CliRunner().invoke(app, ["inspect", "gpt2", "--no-measure"])
    assert alone.exit_code == 0, alone.output
    assert "group:Z12" in alone.stdout
    assert "embedding only" in alone.stdout
    assert "--map" in mapped


def test_every_key_and_every_set_of_words_is_on_the_page(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    keys = re.findall(r"^\| `\[?(\w+)\]?` \|", text, re.MULTILINE)
    for key in ("task", "split", "tokens", "tokenizer", "map", "model"):
        assert key in keys
        value = '\n[map]\nembedding = "a"\n' if key == "map" else f'{key} = "a"\n'
        value = value.removeprefix("\nmap")
        (tmp_path / OPTIONS_FILE).write_text(value, encoding="utf-8")
        assert read_options([tmp_path]).files
    for name in NAMED_SETS:
        assert f"`{name}`" in text
