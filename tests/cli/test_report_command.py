"""`geomdiag report` from checkpoints to the page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import xarray as xr
from typer.testing import Result

import geomdiag as gd

pytest.importorskip("matplotlib")
Command = Callable[..., Result]


@pytest.fixture(scope="module")
def result(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "tiny.geomdiag.zarr"
    return gd.save(gd.analyze(gd.open_runs(trained), task="modadd:p=7"), path)


def test_a_result_becomes_a_page_named_after_it(geomdiag: Command, result: Path) -> None:
    done = geomdiag("report", result)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "report: tiny.report.html\n"
    text = Path("tiny.report.html").read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert "Report: modadd:p=7" in text
    assert text.count('class="data"') + text.count("class=data") == 2
    again = geomdiag("report", result, "-o", "again.html", "--title", "Report: modadd:p=7")
    assert again.exit_code == 0, again.stderr
    assert Path("again.html").read_text(encoding="utf-8") == text


def test_with_the_checkpoints_the_tokens_are_on_it(
    geomdiag: Command, result: Path, trained: Path
) -> None:
    geomdiag("report", result, "-o", "without.html")
    done = geomdiag("report", result, "--checkpoints", trained, "-t", "modadd", "-o", "with.html")
    assert done.exit_code == 0, done.stderr
    assert "colour_label" in Path("with.html").read_text(encoding="utf-8").partition("<script>")[0]
    without = Path("without.html").read_text(encoding="utf-8").partition("<script>")[0]
    assert "colour_label" not in without
    assert "--checkpoints RUNS --task TASK" in without


def test_the_command_as_a_user_runs_it(process: Callable[..., object], trained: Path) -> None:
    analysed = process("analyze", trained, "--task", "modadd", "--out", "r.geomdiag.zarr", "-q")
    assert analysed.returncode == 0, analysed.stderr  # type: ignore[attr-defined]
    done = process("report", "r.geomdiag.zarr")
    assert done.returncode == 0, done.stderr  # type: ignore[attr-defined]
    assert done.stdout == "report: r.report.html\n"  # type: ignore[attr-defined]
    assert done.stderr == ""  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.zarr"], "there is no result at"),
        (["RESULT", "--checkpoints", "RUNS"], "say what the checkpoints are of: --task"),
        (["RESULT", "--task", "modadd"], "without --checkpoints leave --task"),
        (["RESULT", "--allow-pickle"], "without --checkpoints leave --task"),
        (["RESULT", "--checkpoints", "none", "-t", "modadd"], "there is no such file or folder"),
        (["RESULT", "-o", "no/such/folder/a.html"], "cannot write"),
        ([], "Missing argument 'RESULT'"),
    ],
)
def test_what_cannot_be_reported_leaves_no_file(
    geomdiag: Command, result: Path, trained: Path, arguments: list[str], message: str
) -> None:
    places = {"RESULT": result, "RUNS": trained}
    done = geomdiag("report", *(places.get(one, one) for one in arguments))
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
    assert not list(Path().iterdir())


def test_a_result_without_a_run_is_an_error(geomdiag: Command, tmp_path: Path) -> None:
    path = gd.save(xr.DataTree(xr.Dataset(attrs={"task": "modadd"})), tmp_path / "empty.zarr")
    done = geomdiag("report", path)
    assert done.exit_code == 2
    assert "holds no run" in done.stderr
