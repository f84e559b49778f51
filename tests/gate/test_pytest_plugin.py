"""The pytest plugin, in pytest runs of its own: in one process NumPy would be loaded twice."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from geomdiag.gate import plugin

pytest_plugins = ["pytester"]

TEST = """
def test_shape(geometry_regression):
    geometry_regression.check({values})
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    # a test file that is written twice within a second is read twice
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    pytester.makeini("[pytest]\nfilterwarnings = error\n")
    return pytester


def run(project: pytest.Pytester, values: str, *arguments: str) -> pytest.RunResult:
    project.makepyfile(test_it=TEST.format(values=values))
    return project.runpytest_subprocess("-p", "no:cacheprovider", *arguments)


def test_the_plugin_is_an_entry_point() -> None:
    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    entries = tomllib.loads(text)["project"]["entry-points"]["pytest11"]
    assert entries == {"geomdiag": plugin.__name__}


def test_without_a_baseline_it_fails_and_says_how_to_make_one(project: pytest.Pytester) -> None:
    done = run(project, "{'dimension': 3.0}")
    done.assert_outcomes(failed=1)
    text = done.stdout.str()
    assert "there is no baseline at geometry/test_it.test_shape.toml." in text
    assert "Run `pytest --geometry-update` to write it" in text
    assert not (project.path / "geometry").exists()


def test_written_checked_failed_and_updated(project: pytest.Pytester) -> None:
    done = run(project, "{'dimension': [3.0, 3.1, 3.2]}", "--geometry-update")
    done.assert_outcomes(passed=1)
    done.stdout.fnmatch_lines(["geometry baseline written: geometry/test_it.test_shape.toml"])
    file = project.path / "geometry" / "test_it.test_shape.toml"
    assert '"dimension" = { values = [3, 3.1, 3.2]' in file.read_text(encoding="utf-8")

    run(project, "{'dimension': 3.2}").assert_outcomes(passed=1)

    done = run(project, "{'dimension': 9.0}")
    done.assert_outcomes(failed=1)
    text = done.stdout.str()
    assert "geometry FAILED: 1 regressed" in text
    assert "dimension: regressed; baseline 3.1, now 9" in text
    lines = [line for line in text.splitlines() if line.strip()]
    last = next(i for i, line in enumerate(lines) if "short test summary" in line) - 1
    assert lines[last].startswith("If the change is meant, run `pytest --geometry-update`")

    edited = file.read_text(encoding="utf-8").replace("relative = 0.1", "relative = 0.5")
    file.write_text(edited, encoding="utf-8")
    run(project, "{'dimension': 9.0}", "--geometry-update").assert_outcomes(passed=1)
    assert '"dimension" = { values = [9], worse = "either", relative = 0.5 }' in file.read_text(
        encoding="utf-8"
    )
    run(project, "{'dimension': 12.0}").assert_outcomes(passed=1)


def test_a_missing_number_fails(project: pytest.Pytester) -> None:
    run(project, "{'a': 1.0, 'b': 2.0}", "--geometry-update").assert_outcomes(passed=1)
    done = run(project, "{'a': 1.0, 'b': float('nan')}")
    done.assert_outcomes(failed=1)
    assert "b: missing; baseline 2, now –" in done.stdout.str()


def test_a_damaged_baseline_is_named(project: pytest.Pytester) -> None:
    (project.path / "geometry").mkdir()
    (project.path / "geometry" / "test_it.test_shape.toml").write_text("x = 1", encoding="utf-8")
    done = run(project, "{'a': 1.0}")
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["*geometry cannot be compared: *test_it.test_shape.toml: expected*"])


def test_every_test_and_every_call_has_a_file_of_its_own(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_many="""
        import pytest

        class TestOne:
            def test_a(self, geometry_regression):
                geometry_regression.check({"x": 1.0})

        class TestTwo:
            @pytest.mark.parametrize("name", ["p/q", "p_q"])
            def test_a(self, geometry_regression, name):
                geometry_regression.check({"x": 1.0})
                geometry_regression.check({"x": 2.0}, name="second")

        def test_twice(geometry_regression):
            geometry_regression.check({"x": 1.0})
            geometry_regression.check({"x": 1.0})
        """
    )
    done = project.runpytest_subprocess("-p", "no:cacheprovider", "--geometry-update")
    done.assert_outcomes(passed=3, failed=1)
    done.stdout.fnmatch_lines(["*called twice in one test; give each call a name*"])
    assert sorted(path.name for path in (project.path / "geometry").iterdir()) == [
        "test_many.TestOne.test_a.toml",
        "test_many.TestTwo.test_a[p%2Fq].second.toml",
        "test_many.TestTwo.test_a[p%2Fq].toml",
        "test_many.TestTwo.test_a[p_q].second.toml",
        "test_many.TestTwo.test_a[p_q].toml",
        "test_many.test_twice.toml",
    ]


def test_results_of_a_run_a_tree_and_a_path(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_results="""
        import xarray as xr
        import geomdiag as gd

        RUN = xr.Dataset(
            {"accuracy": (("step", "part"), [[0.0], [1.0]]), "additivity": ("step", [0.1, 0.5])},
            {"step": [0, 1], "part": ["heldout"]},
            {"run": "a/seed=0"},
        )
        TREE = xr.DataTree.from_dict({"/n": RUN})

        def test_run(geometry_regression):
            geometry_regression.check(RUN)

        def test_tree(geometry_regression):
            geometry_regression.check(TREE, metrics=["accuracy*"])

        def test_path(geometry_regression, tmp_path):
            geometry_regression.check(gd.save(TREE, tmp_path / "r.zarr"))
        """
    )
    arguments = ("-p", "no:cacheprovider")
    project.runpytest_subprocess(*arguments, "--geometry-update").assert_outcomes(passed=3)
    project.runpytest_subprocess(*arguments).assert_outcomes(passed=3)
    texts = {
        path.name.split("_")[-1]: path.read_text(encoding="utf-8")
        for path in (project.path / "geometry").iterdir()
    }
    assert '"additivity" = ' in texts["run.toml"]
    assert '"additivity" = ' not in texts["tree.toml"]
    assert '[settings."a".metrics]' in texts["path.toml"]


def test_runs_that_do_not_use_it_load_nothing_heavy() -> None:
    code = (
        "import pytest, sys; before = set(sys.modules); import geomdiag.gate.plugin; "
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"numpy", "scipy", "xarray", "torch", "zarr", "sklearn"}
    assert "geomdiag" in done.stdout.split()
    assert not heavy & set(done.stdout.split())
