"""The example projects of the gate run as they stand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from geomdiag.gate.baseline import load_baseline

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables of a workflow's job, in which `geomdiag` and `python` are this installation's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, words in (("geomdiag", "-m geomdiag "), ("python", "")):
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n', encoding="utf-8")
        script.chmod(0o755)
    runner = tmp_path / "runner"
    runner.mkdir()
    return {
        **os.environ,
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "RUNNER_TEMP": str(runner),
        "GITHUB_STEP_SUMMARY": str(runner / "summary.md"),
        "GITHUB_OUTPUT": str(runner / "output"),
    }


def shell(script: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess:
    """Run a step the way GitHub's `shell: bash` does."""
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def act(
    action: dict[str, Any], given: dict[str, str], folder: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess:
    """Run the steps of the composite action until one fails; return the last."""
    assert action["runs"]["using"] == "composite"
    inputs = {name: one.get("default", "") for name, one in action["inputs"].items()} | given
    values = {f"inputs.{name}": value for name, value in inputs.items()}
    values["github.action_path"] = str(ROOT)
    for step in action["runs"]["steps"]:
        assert step["shell"] == "bash"
        assert "${{" not in step["run"]  # what comes from outside comes as a variable
        own = {
            name: re.sub(r"\$\{\{ ([\w.]+) \}\}", lambda found: values[found[1]], text)
            for name, text in step.get("env", {}).items()
        }
        done = shell(step["run"], folder, environment | own)
        if done.returncode:
            break
    return done


def test_the_action_and_the_workflow_gate_the_example_project(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    project = Path(shutil.copytree(EXAMPLES / "github-action", tmp_path / "project"))
    path = project / ".github/workflows/geometry.yml"
    steps = yaml.safe_load(path.read_text("utf-8"))["jobs"]["geometry"]["steps"]
    *commands, checking, telling = (step["run"] for step in steps if "run" in step)
    summary = Path(environment["GITHUB_STEP_SUMMARY"])
    output = Path(environment["GITHUB_OUTPUT"])
    for command in commands:
        if command.startswith("geomdiag"):
            done = shell(command, project, environment)
            assert done.returncode == 0, done.stderr
    for command in (checking, telling):
        done = shell(command, project, environment)
        assert done.returncode == 0, done.stdout + done.stderr
    assert summary.read_text("utf-8").startswith("### geometry passed")
    assert {"geometry.junit.xml", "geometry.json"} <= {one.name for one in project.iterdir()}
    summary.unlink()

    # what the comment says to write in the place of those two
    words = path.read_text("utf-8").partition("write that")[2].partition("\n")[2].partition("\n")[2]
    (use,) = yaml.safe_load(re.sub(r"^ *# ", "", words, flags=re.MULTILINE))
    assert use["uses"].endswith("/geomdiag@v0.1.0")
    action = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
    assert set(use["with"]) <= set(action["inputs"])
    assert {n for n, one in action["inputs"].items() if one.get("required")} <= set(use["with"])
    for name in ("geometry.junit.xml", "geometry.json"):
        (project / name).unlink()
    done = act(action, use["with"], project, environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "### geometry passed" in summary.read_text("utf-8")
    assert output.read_text("utf-8") == "passed=true\n"
    assert (project / "geometry.junit.xml").is_file()
    assert (project / "geometry.json").is_file()

    # a training that ends too early
    recipe = project / "recipe.toml"
    text = recipe.read_text("utf-8").replace("steps = 1000", "steps = 40")
    recipe.write_text(text, encoding="utf-8")
    for command in (
        "geomdiag train recipe.toml --seeds 0,1 --out short -q",
        "geomdiag analyze short/quick --task modadd:p=17 --out short.geomdiag.zarr -q",
    ):
        assert shell(command, project, environment).returncode == 0
    done = act(action, use["with"] | {"result": "short.geomdiag.zarr"}, project, environment)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "### geometry FAILED" in summary.read_text("utf-8")
    assert output.read_text("utf-8") == "passed=true\npassed=false\n"
    done = shell(checking.replace("runs.g", "short.g"), project, environment)
    assert done.returncode == 1, done.stdout + done.stderr
    assert shell(telling, project, environment).returncode == 0

    given = use["with"] | {"baseline": "none.toml"}
    assert act(action, given, project, environment).returncode == 2
    assert output.read_text("utf-8") == "passed=true\npassed=false\n"


def test_the_pytest_example(tmp_path: Path, environment: dict[str, str]) -> None:
    project = Path(shutil.copytree(EXAMPLES / "pytest", tmp_path / "project"))
    (project / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    options = {"cwd": project, "env": environment, "capture_output": True, "text": True}
    done = subprocess.run(command, check=False, **options)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
    baseline = project / "geometry" / "test_geometry.test_numbers_of_ones_own.toml"
    text = baseline.read_text("utf-8").replace("values = [2]", "values = [9]")
    baseline.write_text(text, encoding="utf-8")
    done = subprocess.run([*command, "-k", "numbers"], check=False, **options)
    assert done.returncode == 1
    assert "effective_dimension: regressed; baseline 9, now 2" in done.stdout


def hook() -> dict[str, str]:
    (found,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text("utf-8"))
    return found


def test_the_hook_is_the_one_that_the_example_has() -> None:
    path = EXAMPLES / "pre-commit" / ".pre-commit-config.yaml"
    (repository,) = yaml.safe_load(path.read_text("utf-8"))["repos"]
    (own,) = repository["hooks"]
    for key in ("id", "name", "entry", "files"):
        assert own[key] == hook()[key]
    words = path.read_text("utf-8").partition("write its address:\n")[2]
    (remote,) = yaml.safe_load(re.sub(r"^  # ", "", words, flags=re.MULTILINE))
    assert [one["id"] for one in remote["hooks"]] == [hook()["id"]]


def test_the_hook_looks_at_baselines_only() -> None:
    pattern = re.compile(hook()["files"])
    for path in ("geometry.toml", "a/runs.geometry.toml", "tests/geometry/test_a.test_b.toml"):
        assert pattern.search(path), path
    for path in ("pyproject.toml", "a/mygeometry.toml", "geometry/a/b.toml", "geometry.json"):
        assert not pattern.search(path), path
    ours = [path.relative_to(ROOT).as_posix() for path in EXAMPLES.rglob("*geometry*.toml")]
    assert len([path for path in ours if pattern.search(path)]) == 4
    for path in ours:
        load_baseline(ROOT / path)


def test_the_hook_refuses_a_baseline_that_breaks_the_schema(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    project = Path(shutil.copytree(EXAMPLES / "pre-commit", tmp_path / "project"))
    command = f"{hook()['entry']} geometry.toml"
    done = shell(command, project, environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    baseline = project / "geometry.toml"
    text = baseline.read_text("utf-8").replace("relative", "relatve")
    baseline.write_text(text, encoding="utf-8")
    done = shell(command, project, environment)
    assert done.returncode == 2
    assert "unknown key 'relatve'" in done.stderr


@pytest.mark.parametrize("whose", ["local", "the repository's"])
def test_pre_commit_runs_the_hook(tmp_path: Path, environment: dict[str, str], whose: str) -> None:
    pytest.importorskip("pre_commit")
    environment |= {
        "PRE_COMMIT_HOME": str(tmp_path / "cache"),
        **{f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME",)},
        **{f"GIT_{who}_EMAIL": "x@example.org" for who in ("AUTHOR", "COMMITTER")},
    }
    project = Path(shutil.copytree(EXAMPLES / "pre-commit", tmp_path / "project"))
    if whose != "local":
        hooks = tmp_path / "hooks"
        hooks.mkdir()
        shutil.copy(ROOT / ".pre-commit-hooks.yaml", hooks)
        git = "git init -q . && git add -A && git commit -q -m hooks && git rev-parse HEAD"
        revision = shell(git, hooks, environment).stdout.strip()
        configuration = {
            "repo": str(hooks),
            "rev": revision,
            "hooks": [{"id": hook()["id"], "language": "system"}],
        }
        (project / ".pre-commit-config.yaml").write_text(
            yaml.safe_dump({"repos": [configuration]}), encoding="utf-8"
        )
    run = "git init -q . && git add -A && python -m pre_commit run --all-files"
    done = shell(run, project, environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Passed" in done.stdout
    baseline = project / "geometry.toml"
    baseline.write_text(baseline.read_text("utf-8").replace("relative", "relatve"), "utf-8")
    done = shell(run, project, environment)
    assert done.returncode == 1
    assert "unknown key 'relatve'" in done.stdout
