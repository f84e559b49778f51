"""Every block of code on the pages runs, or says visibly that it does not, and why.

The runs are marked slow; `.ci/run` runs them all. A block's language says what is done with it:
``python`` and ``console`` run, ``toml``, ``json`` and ``yaml`` are read, ``text`` is what a
program prints or a drawing. Blocks of a page share a folder and Python's names.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.pages import NOT_RUN, Block, commands, difference, fenced, shell
from safetensors.numpy import save_file

import geomdiag as gd

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
#: README.md has tests of its own in test_docs.py.
PAGES = [
    *(page for page in sorted(DOCS.rglob("*.md")) if "_build" not in page.parts),
    ROOT / "CONTRIBUTING.md",
    ROOT / "fixtures" / "README.md",
]
BLOCKS = [block for page in PAGES for block in fenced(page, ROOT)]
READERS: dict[str, Callable[[str], object]] = {
    "toml": tomllib.loads,
    "json": json.loads,
    "yaml": yaml.safe_load,
}
#: Files that a page tells to write, by the number of the block.
FILES = {
    ("docs/own-model.md", 0): "recurrent.py",
    ("docs/training.md", 0): "quick.toml",
    ("docs/training.md", 4): "decays.toml",
}
#: Blocks that a page shows before the one that makes what they need: they run after it.
LATER = {("docs/embedding-only.md", 0): 1}
#: Pages whose Python, so many blocks of it, is run by tests of their own.
ELSEWHERE = {"docs/live.md": ("tests/live/test_live_page.py", 6)}
#: What is added to commands that would go on for ever.
ADDED = {"geomdiag watch runs/ --task modadd --report runs.html": " --once"}
#: Number of blocks that are not run, by page: none escapes by accident.
LEFT_OUT = {
    "CONTRIBUTING.md": 2,
    "docs/forecast.md": 2,
    "docs/formats.md": 2,
    "docs/getting-started.md": 1,
    "fixtures/README.md": 1,
}


def test_every_block_has_a_language_that_is_dealt_with() -> None:
    known = {"python", "console", "text", *READERS}
    for block in BLOCKS:
        directive = block.language.startswith("{")
        assert directive or block.language in known, (
            f"{block.where}: a block of {block.language or 'no language'}; expected one of "
            f"{', '.join(sorted(known))}. Commands are `console` blocks, each begins with '$ '."
        )


def test_no_command_hides_in_a_text() -> None:
    programs = ("$ ", "geomdiag ", "python ", "pip ", "make ", "pytest", "git ", ">>> ")
    for block in BLOCKS:
        if block.language == "text":
            for line in block.text.splitlines():
                assert not line.startswith(programs), f"{block.where}: {line}"


def test_data_can_be_read() -> None:
    read = 0
    for block in BLOCKS:
        if block.language in READERS:
            READERS[block.language](block.text)
            read += 1
    assert read > 4


def test_what_is_not_run_is_listed_here() -> None:
    found: dict[str, int] = {}
    for block in BLOCKS:
        if block.why_not:
            assert block.language in ("python", "console"), block.where
            assert len(block.why_not) > 4, f"{block.where}: say why"
            found[block.page] = found.get(block.page, 0) + 1
        else:
            assert NOT_RUN.strip() not in block.text, f"{block.where}: the first line says it"
    assert found == LEFT_OUT


@pytest.mark.parametrize("page", ELSEWHERE)
def test_what_is_run_elsewhere_is_there(page: str) -> None:
    file, count = ELSEWHERE[page]
    assert Path(page).name in (ROOT / file).read_text(encoding="utf-8")
    mine = [block for block in BLOCKS if block.page == page and block.language == "python"]
    assert len(mine) == count


def runs(block: Block) -> bool:
    if block.why_not or (block.language == "python" and block.page in ELSEWHERE):
        return False
    return block.language in ("python", "console")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short run, `runs/seed=0`, and its result, as pages suppose them."""
    folder = tmp_path_factory.mktemp("pages")
    source = ROOT / "fixtures" / "series" / "modadd-p31-mlp" / "seed=0"
    run = folder / "runs" / "seed=0"
    run.mkdir(parents=True)
    files = sorted(source.glob("step_*.safetensors"))
    for file in [*files[::6], files[-1], source / "run.json"]:
        shutil.copy(file, run)
    gd.analyze_into(folder / "runs.geomdiag.zarr", folder / "runs", "modadd", workers=1)
    return folder


def for_the_gate(folder: Path) -> None:
    for name in ("old", "new"):
        shutil.copytree(folder / "runs.geomdiag.zarr", folder / f"{name}.geomdiag.zarr")


def for_the_results(folder: Path) -> None:
    tree = gd.load(folder / "runs.geomdiag.zarr")
    tree["modadd-p31-mlp__seed=0"] = tree["seed=0"]
    shutil.rmtree(folder / "runs.geomdiag.zarr")
    gd.save(tree, folder / "runs.geomdiag.zarr")


def for_the_example_of_an_action(folder: Path) -> None:
    shutil.rmtree(folder / "runs.geomdiag.zarr")
    shutil.copy(DOCS / "examples" / "github-action" / "recipe.toml", folder)


def an_unknown_network(folder: Path) -> None:
    shutil.rmtree(folder / "runs")
    shutil.rmtree(folder / "runs.geomdiag.zarr")
    (folder / "runs").mkdir()
    rng = np.random.default_rng(0)
    names = ("encoder.tok.weight", "encoder.mix.weight", "head.weight")
    weights = {name: rng.normal(size=(113, 16)).astype(np.float32) for name in names}
    save_file(weights, folder / "runs" / "step_100.safetensors")


def names_of_a_dump(folder: Path) -> dict[str, Any]:
    (folder / "dumps").mkdir()
    rng = np.random.default_rng(0)
    return {
        "my_model": lambda inputs: rng.normal(size=(len(inputs), 113)),
        "my_embedding": rng.normal(size=(114, 8)),
        "embedding": rng.normal(size=(113, 8)),
        "mask": rng.random(113**2) < 0.3,
        "step": 100,
        "train_loss": 0.1,
        "heldout_accuracy": 0.5,
    }


#: What a page supposes to be there, beside the short run; may return Python names.
SETUP: dict[str, Callable[[Path], dict[str, Any] | None]] = {
    "docs/dump-format.md": names_of_a_dump,
    "docs/embedding-only.md": an_unknown_network,
    "docs/examples/github-action/README.md": for_the_example_of_an_action,
    "docs/gate.md": for_the_gate,
    "docs/results.md": for_the_results,
}


def in_order(page: str) -> list[tuple[int, Block]]:
    """The blocks of a page with their numbers, in the order in which they run."""
    numbered = list(enumerate(block for block in BLOCKS if block.page == page))
    return sorted(numbered, key=lambda one: LATER.get((page, one[0]), one[0] - 0.5))


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({block.page for block in BLOCKS if runs(block)}))
def test_blocks_run(
    page: str, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "reader"
    shutil.copytree(prepared, folder)
    (folder / "fixtures").symlink_to(ROOT / "fixtures")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    modules = set(sys.modules)
    names: dict[str, Any] = {"__name__": "__main__"}
    names |= SETUP.get(page, lambda _: None)(folder) or {}
    try:
        printed = ""
        for number, block in in_order(page):
            if file := FILES.get((page, number)):
                (folder / file).write_text(block.text, encoding="utf-8")
            if block.language == "text" and block.follows and printed:
                assert not (found := difference(block.text, printed)), f"{block.where}: {found}"
            printed = ""
            if not runs(block) or (file and block.language == "python"):
                continue
            if block.language == "python":
                with contextlib.redirect_stdout(io.StringIO()) as output:
                    exec(compile(block.text, block.where, "exec"), names)
                printed = output.getvalue()
                continue
            for command, shown in commands(block):
                done = shell(command + ADDED.get(command, ""), folder, tmp_path / "bin")
                assert done.returncode == 0, f"{block.where}: {command}\n{done.stderr}{done.stdout}"
                if shown:
                    assert not (found := difference(shown, done.stdout)), f"{block.where}: {found}"
    finally:
        for name in set(sys.modules) - modules:
            origin = getattr(sys.modules[name], "__file__", None)
            if origin and Path(origin).is_relative_to(folder):
                del sys.modules[name]


@pytest.mark.parametrize(
    ("shown", "real", "agree"),
    [
        ("a 1.00 b", "a 1.01 b\n", True),
        ("a 1.00 b", "a 1.10 b\n", False),
        ("a\n...\nd\n", "a\nb\nc\nd\n", True),
        ("a\n...\n", "a\nb\n", True),
        ("a\n...\nd\n", "a\nd\ne\n", False),
        ("a", "a b", False),
        ("...\nb\n", "a\nb\n", True),
        ("b", "a b", False),
    ],
)
def test_shown_output_is_held_against_the_real_one(shown: str, real: str, agree: bool) -> None:
    assert (not difference(shown, real)) == agree
