"""The documentation says what the code says, and its code runs."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import geomdiag as gd
from geomdiag.training import load_recipes, parse_recipe, train
from geomdiag.training import recipe as recipes

ROOT = Path(__file__).resolve().parents[2]


def test_results_page_is_what_the_code_says() -> None:
    spec = importlib.util.spec_from_file_location("make_results", ROOT / "docs/make_results.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    assert written == module.page(), "run `python docs/make_results.py`"


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in page.parts),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_readme_shows_the_real_output(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```console\n\$ geomdiag (.*?)\n(.*?)```", text, re.DOTALL)
    assert block is not None
    arguments = block[1].split()
    arguments[1] = str(ROOT / arguments[1])
    done = subprocess.run(
        [sys.executable, "-m", "geomdiag", *arguments],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "96"},
        capture_output=True,
        text=True,
        check=True,
    )
    number = r"\d+(?:\.\d+)?(?:e[+-]\d+)?"
    shown, real = block[2].split(), done.stdout.split()
    for one, other in zip(shown, real, strict=False):
        assert re.sub(number, "#", one) == re.sub(number, "#", other)
        for a, b in zip(re.findall(number, one), re.findall(number, other), strict=True):
            # other processors round float32 differently
            assert float(a) == pytest.approx(float(b), rel=0.02, abs=1e-8)
    assert len(shown) <= len(real)


def test_readme_python_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    example, _ = blocks("README.md", "python")
    rng = np.random.default_rng(0)
    names: dict[str, Any] = {"logits": rng.normal(size=(113**2, 113)), "W": rng.normal(size=(9, 4))}
    exec(compile(example, "README.md", "exec"), names)
    run = names["tree"]["modadd-p31-mlp__seed=0"]
    assert set(run["status"].values) == {"ok"}
    assert names["runs"]["modadd-p31-mlp/seed=0"].steps[-1] == 5000


def test_readme_live_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, example = blocks("README.md", "python")
    model = torch.nn.Module()
    model.embed = torch.nn.Embedding(31, 4)
    model.l1 = torch.nn.Linear(4, 8, bias=False)
    model.unembed = torch.nn.Linear(8, 31, bias=False)
    # fewer steps than the page says, for time
    assert "1001" in example
    example = example.replace("1001", "201")
    exec(compile(example, "README.md", "exec"), {"gd": gd, "model": model})
    (run,) = gd.load("run.geomdiag.zarr").children.values()
    assert run["step"].values.tolist() == [100, 200]
    assert set(run["status"].values) == {"ok"}


def test_own_model_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, script = blocks("docs/own-model.md", "python")
    (tmp_path / "recurrent.py").write_text(module, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names: dict[str, Any] = {}
    try:
        exec(compile(script, "own-model.md", "exec"), names)
        named = gd.analyze("gru", "modadd:p=7", model="recurrent:factory", workers=1)
    finally:
        sys.modules.pop("recurrent", None)
    run = names["run"]
    assert set(run["status"].values) == {"ok"}
    said = re.search(r"# ([\d.]+) at step 0, ([\d.]+) from step (\d+)", script)
    assert said is not None
    accuracy = run["accuracy"].sel(part="all")
    assert float(accuracy.sel(step=0)) == pytest.approx(float(said[1]), abs=0.05)
    assert (accuracy.sel(step=slice(int(said[3]), None)) == float(said[2])).all()
    assert set(run["matrix"].values) == {"embedding", "unembedding"}
    assert named["gru"]["loss"].identical(run["loss"])


def test_contributing_examples_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    task_check, analyzer = blocks("CONTRIBUTING.md", "python")
    exec(compile(task_check, "CONTRIBUTING.md", "exec"), {})
    names: dict[str, Any] = {}
    exec(compile(analyzer, "CONTRIBUTING.md", "exec"), names)
    (run,) = names["tree"].children.values()
    assert (run["row_norm"] > 0).all()


def test_tasks_page_runs() -> None:
    names: dict[str, Any] = {}
    for block in blocks("docs/tasks.md", "python"):
        exec(compile(block, "tasks.md", "exec"), names)
    dual = names["dual"]
    assert dual.generates(["k=1,0", "k=0,1"])
    assert not dual.generates(["k=2,1", "k=0,5"])
    assert len(dual.kernel(["k=2,1", "k=0,5"])) == 2


def test_tasks_page_names_every_family() -> None:
    text = (ROOT / "docs/tasks.md").read_text(encoding="utf-8")
    for family in gd.tasks.task_families():
        assert f"`{family.name}" in text
    for specification in re.findall(r"`((?:graph|comparison|group):[\w,=-]+)`", text):
        task = gd.task(specification)
        for symmetry in task.symmetries:
            assert symmetry.name.split("_")[-1] in text
    for label in ("sign", "standard", "standard_sign", "[3,2]", "[2,2,1]", "[3,1,1]"):
        assert label in gd.task("group:S5").basis.labels
    for label in ("[3,2]", "[3,1,1]a", "[3,1,1]b"):
        assert label in gd.task("group:A5").basis.labels
    assert {"parity", "parity_sign"} <= set(gd.task("group:D6").basis.labels)


def test_training_recipe_trains(tmp_path: Path) -> None:
    text, *_ = blocks("docs/training.md", "toml")
    recipe = parse_recipe(tomllib.loads(text))
    folders = train(recipe, tmp_path)
    assert folders == [tmp_path / "quick" / "seed=0", tmp_path / "quick" / "seed=1"]
    for folder in folders:
        content = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        for key in ("seed", "task", "config", "recipe", "device", "versions", "split", "history"):
            assert key in content
        assert (folder / "step_000000.safetensors").is_file()
        # said on the page: both generalise
        assert content["history"]["heldout_accuracy"][-1] > 0.95


def test_prompted_recipe_generalises_as_the_page_says(tmp_path: Path) -> None:
    _, text, _ = blocks("docs/training.md", "toml")
    values = tomllib.loads(text)
    prompted = train(parse_recipe(values), tmp_path / "prompted")
    del values["auxiliary"]
    plain = train(parse_recipe(values), tmp_path / "plain")
    for folder, without in zip(prompted, plain, strict=True):
        told, history = (
            json.loads((place / "run.json").read_text(encoding="utf-8"))["history"]
            for place in (folder, without)
        )
        right = np.array(told["heldout_accuracy"])[np.array(told["step"]) >= 300]
        assert (right > 0.99).all()
        assert len(told["auxiliary"]) == len(told["step"])
        assert history["train_accuracy"][-1] > 0.99
        assert max(history["heldout_accuracy"]) < 0.2


def test_the_page_s_sweep_stands_for_four_recipes(tmp_path: Path) -> None:
    quick, _, sweep = blocks("docs/training.md", "toml")
    (tmp_path / "quick.toml").write_text(quick, encoding="utf-8")
    (tmp_path / "decays.toml").write_text(sweep, encoding="utf-8")
    found = load_recipes(tmp_path / "decays.toml")
    assert [one.name for one in found] == [
        f"p17+{variant}+weight_decay-{decay}+train_fraction-0.7"
        for variant in ("plain", "prompted")
        for decay in (0.3, 1.0)
    ]


@pytest.mark.parametrize(
    ("heading", "cls"),
    [
        ("### At the top", recipes.Recipe),
        ('### `[model]` with `kind = "transformer"`', recipes.TransformerModel),
        ('### `[model]` with `kind = "mlp"`', recipes.MLPModel),
        ("### `[training]`", recipes.Training),
        ("### `[checkpoints]`", recipes.Checkpoints),
        ("### `[auxiliary]`", recipes.AuxiliaryLoss),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_recipe_key_is_explained(heading: str, cls: Any) -> None:
    text = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    section = re.split(r"^##", text.split(f"{heading}\n")[1], flags=re.MULTILINE)[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \| [^|]+ \|$", section, re.MULTILINE))
    wanted = {}
    for field in dataclasses.fields(cls):
        if field.default is None:
            wanted[field.name] = "none"
        elif field.default is not dataclasses.MISSING:
            wanted[field.name] = f"`{json.dumps(field.default)}`"
        elif field.default_factory is dataclasses.MISSING:
            wanted[field.name] = "required"
        else:  # a table of its own
            wanted[field.name] = rows.get(field.name, "nowhere")
    assert rows == wanted
