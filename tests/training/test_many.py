"""Recipes of one program: what may share it, that nothing changes by it, and what goes wrong."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from naive_networks import small
from safetensors.numpy import load_file

from geomdiag.errors import RecipeError, StoreError
from geomdiag.training import (
    Progress,
    Recipe,
    many,
    prompts,
    recording,
    train,
    train_all,
    trainer,
)
from geomdiag.training.files import state_path
from geomdiag.training.stack import HIDDEN_BYTES

Sections = dict[str, Any]

NUMBERS: list[Sections] = [
    {},
    {"training": {"lr": 3e-2, "seeds": [4, 0, 7]}},
    {"training": {"weight_decay": 0.0, "warmup": 0}},
    {"training": {"split_seed": "seed", "seeds": 2, "label_noise": 0.2}},
    {"training": {"betas": [0.8, 0.9], "warmup": 37}},
    {"model": {"output_scale": 3.0, "init_scale": 0.7}},
    {"model": {"embedding_init_scale": 2.0}},
]
MOMENTUM: list[Sections] = [
    {"training": {"lr": 3e-2, "seeds": 2}},
    {"training": {"momentum": 0.5, "weight_decay": 1e-2}},
    {"training": {"warmup": 0}},
]
GROKFAST: list[Sections] = [
    {"training": {"lr": 3e-2}},
    {"training": {"grokfast": 0.3}},
    {"training": {"grokfast_decay": 0.5}},
]
WEIGHTS: list[Sections] = [{"auxiliary": {"weight": 0.5}}, {"training": {"lr": 3e-2, "seeds": 2}}]
FAMILIES: dict[str, tuple[Sections, list[Sections]]] = {
    "adamw": ({}, NUMBERS),
    "sgd": ({"training": {"optimiser": "sgd", "lr": 0.1, "weight_decay": 1e-3}}, MOMENTUM),
    "muon": ({"training": {"optimiser": "muon", "lr": 1e-2}}, MOMENTUM),
    "grokfast": ({"training": {"grokfast": 2.0}}, GROKFAST),
    "muon and grokfast": ({"training": {"optimiser": "muon", "grokfast": 1.0}}, GROKFAST),
    "nuclear": ({"auxiliary": {"kind": "nuclear", "weight": 0.01}}, WEIGHTS),
    "lipschitz": ({"auxiliary": {"kind": "lipschitz", "weight": 0.1}}, WEIGHTS),
    "consistency": ({"auxiliary": {"kind": "consistency", "tuples": 7}}, WEIGHTS),
}


def family(base: Sections, variants: list[Sections], kind: str = "transformer") -> list[Recipe]:
    """Recipes v0, v1, ..., each the base with a variant laid over it."""
    recipes = []
    for i, variant in enumerate(variants):
        merged = {key: {**base.get(key, {}), **variant.get(key, {})} for key in {*base, *variant}}
        recipes.append(small(kind, name=f"v{i}", **merged))
    return recipes


def doubled(recipes: list[Recipe]) -> list[Recipe]:
    return [replace(recipe, dtype="float64") for recipe in recipes]


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Stop(Exception):
    pass


def stopper(at: int, recipe: str) -> Callable[[Progress], None]:
    def progress(event: Progress) -> None:
        if event.step >= at and recipe in event.recipes and not event.message:
            raise Stop

    return progress


def programs(recipes: list[Recipe], out: Path, *, resume: bool = True) -> list[list[str]]:
    tasks = [recipe.build_task() for recipe in recipes]
    groups = many.plan(recipes, tasks, out, device="auto", resume=resume)
    return [[recipe.name for recipe in group] for group in groups]


@pytest.mark.parametrize("kind", ["transformer", "mlp"])
@pytest.mark.parametrize("name", FAMILIES)
def test_stacked_variants_equal_each_alone(tmp_path: Path, kind: str, name: str) -> None:
    # in float64 what differs between batched products of so few units is not seen in the files
    recipes = doubled(family(*FAMILIES[name], kind=kind))
    for recipe in recipes:
        train(recipe, tmp_path / "alone")
    assert len(programs(recipes, tmp_path / "stacked")) == 1
    folders = train_all(recipes, tmp_path / "stacked")
    assert [[folder.parent.name for folder in own] for own in folders] == [
        [recipe.name] * len(recipe.training.seeds) for recipe in recipes
    ]
    alone, stacked = tree(tmp_path / "alone"), tree(tmp_path / "stacked")
    assert alone.keys() == stacked.keys()
    last = [key for key in alone if "000060" in key]
    assert len({alone[key] for key in last}) == len(last)  # so that none could stand for another
    for key, content in alone.items():
        if key.endswith(".json"):
            own, other = json.loads(content), json.loads(stacked[key])
            history, others = own.pop("history"), other.pop("history")
            assert own == other, key
            for column, values in history.items():
                assert others[column] == pytest.approx(values, rel=1e-7), key
        else:
            wanted = load_file(tmp_path / "alone" / key)
            for matrix, values in load_file(tmp_path / "stacked" / key).items():
                np.testing.assert_allclose(values, wanted[matrix], rtol=1e-6, atol=1e-9)


def test_only_what_has_the_same_operations_shares_a_program(tmp_path: Path) -> None:
    others: list[Sections] = [
        {"model": {"d_mlp": 16}},
        {"model": {"activation": "gelu"}},
        {"task": "modadd:p=7"},
        {"dtype": "float64"},
        {"training": {"steps": 61}},
        {"training": {"train_fraction": 0.5}},
        {"training": {"optimiser": "sgd"}},
        {"training": {"grokfast": 1.0}},
        {"checkpoints": {"count": 5}},
        {"auxiliary": {"kind": "nuclear"}},
        {"auxiliary": {"kind": "commutativity", "tuples": 3}},
        {"auxiliary": {"kind": "commutativity", "tuples": 4}},
        {"auxiliary": {"kind": "commutativity", "tuples": 0}},
        {"auxiliary": {"kind": "commutativity", "tuples": 0, "weight": 2.0}},
    ]
    recipes = [small(name=f"o{i}", **sections) for i, sections in enumerate(others)]
    assert programs(recipes, tmp_path) == [[recipe.name] for recipe in recipes]
    with pytest.raises(RecipeError, match="o1 cannot be trained in one program with o0"):
        trainer.train_together(recipes[:2], tmp_path)
    assert not list(tmp_path.iterdir())
    same = family({}, NUMBERS)
    assert programs(same, tmp_path) == [[recipe.name for recipe in same]]


def test_a_program_holds_what_is_worked_on_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 15 inputs, 12 hidden units, 4 bytes: four networks
    monkeypatch.setitem(HIDDEN_BYTES, "cpu", 4 * 15 * 12 * 4)
    other = small("mlp", name="other")
    recipes = [*family({}, NUMBERS), other, small(name="many", training={"seeds": 5, "lr": 0.1})]
    assert programs(recipes, tmp_path) == [
        ["v0", "v1"], ["v2", "v3", "v4"], ["v5", "v6"], ["other"], ["many"]
    ]  # fmt: skip


@pytest.mark.parametrize("at", [0, 30, 60])
def test_an_interrupted_stack_goes_on_as_it_was(
    tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = family({}, NUMBERS[:4])
    stacks = [recipes[1:3], [recipes[0], recipes[3]]]
    for stack in stacks:
        trainer.train_together(stack, tmp_path / "whole")
    broken = tmp_path / "broken"
    with pytest.raises(Stop):
        trainer.train_together(stacks[0], broken, progress=stopper(at, "v1"), state_every=0)
    # a stack that was begun stays one, in whichever order they come now
    assert programs(recipes[::-1], broken)[0] == ["v1", "v2"]
    started: list[int] = []
    run = recording.Recording.run

    def noted(self: recording.Recording, **how: Any) -> None:
        started.append(self.stack.optimiser.step_count)
        run(self, **how)

    monkeypatch.setattr(recording.Recording, "run", noted)
    train_all(recipes, broken)
    assert [step > 0 for step in started] == [at > 0, False]
    assert tree(broken) == tree(tmp_path / "whole")


def test_interrupted_while_it_writes_that_it_has_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = family({}, NUMBERS[:3])
    trainer.train_together(recipes, tmp_path / "whole")
    write = trainer.files.write_run

    def write_run(folder: Path, recipe: Recipe, *, finished: bool, **rest: Any) -> None:
        if finished and recipe.name == "v2":
            raise KeyboardInterrupt
        write(folder, recipe, finished=finished, **rest)

    monkeypatch.setattr(trainer.files, "write_run", write_run)
    with pytest.raises(KeyboardInterrupt):
        train_all(recipes, tmp_path / "broken")
    monkeypatch.undo()
    assert programs(recipes, tmp_path / "broken") == [["v0", "v1", "v2"]]
    train_all(recipes, tmp_path / "broken")
    assert tree(tmp_path / "broken") == tree(tmp_path / "whole")


def test_what_has_finished_stays_and_the_rest_is_stacked(tmp_path: Path) -> None:
    recipes = family({}, NUMBERS[:4])
    train(recipes[1], tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    assert programs(recipes, tmp_path) == [["v0", "v2", "v3"], ["v1"]]
    events: list[Progress] = []
    train_all(recipes, tmp_path, progress=events.append)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert [event.message for event in events if "v1" in event.recipes] == [
        f"{tmp_path / 'v1'} is already finished"
    ]
    stacked = next(event for event in events if event.recipes == ("v0", "v2", "v3", "v3"))
    assert stacked.seeds == (0, 0, 0, 1)
    assert len(stacked.heldout_loss) == 4
    content = tree(tmp_path)
    assert programs(recipes, tmp_path, resume=False) == [["v0", "v1", "v2", "v3"]]
    events.clear()
    train_all(recipes, tmp_path, progress=events.append)
    assert [event.message.endswith("already finished") for event in events] == [True] * 4
    assert tree(tmp_path) == content


def test_a_stack_one_of_which_was_trained_alone_begins_anew(tmp_path: Path) -> None:
    recipes = family({}, NUMBERS[:3])
    with pytest.raises(Stop):
        trainer.train_together(recipes, tmp_path, progress=stopper(30, "v0"), state_every=0)
    train(recipes[1], tmp_path)
    assert programs(recipes, tmp_path) == [["v0", "v2"], ["v1"]]
    with pytest.raises(Stop):
        train(recipes[2], tmp_path, progress=stopper(0, "v2"))
    # the checkpoints of v2 that the stack would go on from are gone
    assert programs([recipes[0], recipes[2]], tmp_path) == [["v0", "v2"]]
    train_all(recipes, tmp_path)
    for recipe in recipes:
        folder = tmp_path / recipe.name / f"seed={recipe.training.seeds[0]}"
        history = json.loads((folder / "run.json").read_text())["history"]
        assert history["step"][-1] == 60
        steps = {int(path.stem[5:]) for path in folder.glob("*.safetensors")}
        assert {0, 60} <= steps <= set(history["step"])
    assert not state_path(tmp_path, recipes[0]).exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_one_failure_leaves_the_others_trained_and_is_named(tmp_path: Path, workers: int) -> None:
    good, bad = small(name="good"), small("mlp", name="bad")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "seed=0").write_text("a file where the folder must be")
    events: list[Progress] = []
    with pytest.raises(StoreError, match=r"^bad: .*run\.json cannot be written"):
        train_all([bad, good], tmp_path, workers=workers, progress=events.append)
    assert json.loads((tmp_path / "good" / "seed=0" / "run.json").read_text())["finished"]
    assert events[-1].recipes == ("good",)
    assert events[-1].step == 60


def test_workers_change_nothing_and_end_with_the_caller(tmp_path: Path) -> None:
    recipes = [*family({}, NUMBERS[:2]), small("mlp", name="other")]
    train_all(recipes, tmp_path / "one")
    train_all(recipes, tmp_path / "two", workers=2)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    long = [
        small(kind, name=kind, training={"steps": 1_000_000}, checkpoints={"count": 2})
        for kind in ("transformer", "mlp")
    ]
    with pytest.raises(Stop):
        train_all(long, tmp_path / "long", workers=2, progress=stopper(100, "mlp"))
    assert not json.loads((tmp_path / "long/mlp/seed=0/run.json").read_text())["finished"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux which processes live")
def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "train_for_ever.py"
    script.write_text(
        textwrap.dedent(
            """
            import multiprocessing, os, signal, sys
            from naive_networks import small
            from geomdiag.training import train_all

            def die(event):
                if event.step < 100:
                    return
                with open(sys.argv[2], "w") as file:
                    print(*(one.pid for one in multiprocessing.active_children()), file=file)
                os.kill(os.getpid(), signal.SIGKILL)

            if __name__ == "__main__":
                long = {"steps": 1_000_000}
                recipes = [small(kind, name=kind, training=long) for kind in ("transformer", "mlp")]
                train_all(recipes, sys.argv[1], workers=2, progress=die)
            """
        )
    )

    def lives(pid: str) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            return False

    found = [str(Path(__file__).parent), *sys.path]
    done = subprocess.run(
        [sys.executable, script, tmp_path / "out", tmp_path / "workers"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(found), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    workers = (tmp_path / "workers").read_text().split()
    assert len(workers) == 2
    until = time.monotonic() + 20
    while any(lives(pid) for pid in workers) and time.monotonic() < until:
        time.sleep(0.1)
    left = [pid for pid in workers if lives(pid)]
    for pid in left:
        os.kill(int(pid), signal.SIGKILL)
    assert not left


def test_wrong_calls_are_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="two recipes are called 'small'"):
        train_all([small(), small()], tmp_path)
    with pytest.raises(RecipeError, match="workers: found 0"):
        train_all([small()], tmp_path, workers=0)
    wrong = small(name="wrong")
    wrong = replace(wrong, training=replace(wrong.training, train_fraction=0.01))
    with pytest.raises(RecipeError, match=r"wrong: .*train_fraction: found 0.01"):
        train_all([small(), wrong], tmp_path)
    assert not list(tmp_path.iterdir())
    train(small(), tmp_path)
    content = tree(tmp_path)
    with pytest.raises(RecipeError, match=r"small: .*another recipe \(training\.lr"):
        train_all([small(name="first"), small(training={"lr": 0.1})], tmp_path)
    assert tree(tmp_path) == content


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (small("mlp", model={"d_hidden": 10**11}), r"\[model\]: found sizes .* GB of this machine"),
        (
            small(task="graph:lattice-2x3", auxiliary={"kind": "triangle", "tuples": 0}),
            r"\[auxiliary\] tuples: found 0, which is all",
        ),
    ],
    ids=["network", "instances"],
)
def test_what_cannot_fit_is_refused_before_anything_trains(
    tmp_path: Path, bad: Recipe, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts, "_MOST", 100)
    with pytest.raises(RecipeError, match=f"^bad: {words}"):
        train_all([small(), replace(bad, name="bad")], tmp_path)
    with pytest.raises(RecipeError, match=f"^{words}"):
        train(bad, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_compiler_may_fail_in_any_way_and_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fails)
    with pytest.raises(RecipeError, match=r"cannot compile the step here \(AssertionError\)"):
        train(small(), tmp_path, compile=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(
    torch.__version__.startswith("2.9."),
    reason="the compiler of torch 2.9 cannot follow array_api_compat: such a step is not compiled",
)
def test_a_compiled_training_is_the_same_but_for_rounding(tmp_path: Path) -> None:
    (recipe,) = doubled([small(training={"seeds": 2})])
    train(recipe, tmp_path / "plain")
    folders = train(recipe, tmp_path / "whole", compile=True)
    stop = stopper(30, "small")
    with pytest.raises(Stop):
        train(recipe, tmp_path / "broken", compile=True, state_every=0, progress=stop)
    train(recipe, tmp_path / "broken", compile=True)
    assert tree(tmp_path / "broken") == tree(tmp_path / "whole")
    for folder in folders:
        assert json.loads((folder / "run.json").read_text())["device"] == "cpu, compiled"
        for path in folder.glob("*.safetensors"):
            wanted = load_file(tmp_path / "plain" / path.relative_to(tmp_path / "whole"))
            for name, values in load_file(path).items():
                np.testing.assert_allclose(values, wanted[name], rtol=1e-5, atol=1e-8)
    # whether it is compiled is no part of what makes a recipe
    content = tree(tmp_path / "plain")
    train(recipe, tmp_path / "plain", compile=True)
    assert tree(tmp_path / "plain") == content


def fails(*_: Any, **__: Any) -> Any:
    raise RuntimeError("InvalidCxxCompiler: no working C++ compiler found\nand more")


def test_without_a_compiler_nothing_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda *_, **__: fails)
    with pytest.raises(RecipeError, match=r"compile: .*no working C\+\+ compiler found\)"):
        train(small(), tmp_path, compile=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change", [lambda loss: 1.001 * loss, lambda loss: loss + 0.01 * (loss - loss.detach())]
)
def test_a_compiled_step_of_other_numbers_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    def compiled(forward: Any, **_: Any) -> Any:
        times = itertools.count()

        def wrong(parameters: Any) -> Any:
            logits, losses = forward(parameters)
            # such as where the first time is another path than those that follow
            return logits, change(losses) if next(times) == 3 else losses

        return wrong

    monkeypatch.setattr(torch, "compile", compiled)
    with pytest.raises(RecipeError, match=r"compile: .* gives other numbers: losses differ by"):
        train(small(), tmp_path, compile=True)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_compiled_trains_without_where_nobody_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(small(), tmp_path / "plain", compile=False)
    monkeypatch.setattr(trainer, "_compiled_unasked", lambda device: True)  # as on a GPU
    monkeypatch.setattr(torch, "compile", lambda *_, **__: fails)
    messages = []
    train(small(), tmp_path / "fallen", progress=lambda now: messages.append(now.message))
    assert [message for message in messages if message] == [
        "trained without compiling: compile: torch cannot compile the step here "
        "(InvalidCxxCompiler: no working C++ compiler found). On a CPU it needs a C++ compiler "
        "such as g++, on a GPU Triton; install it, or train without compile"
    ]
    assert tree(tmp_path / "fallen") == tree(tmp_path / "plain")


def test_on_a_gpu_the_step_is_compiled_unasked() -> None:
    assert trainer._compiled_unasked(torch.device("cuda"))
    assert not trainer._compiled_unasked(torch.device("cpu"))
