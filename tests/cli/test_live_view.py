"""What `geomdiag watch` shows on a terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

import geomdiag as gd
from geomdiag.live import Look
from geomdiag_cli.live_view import View, _table


def a_run(number: int) -> dict[str, str]:
    return {
        "run": f"lr=0.001/wd=1.0/init=small/seed={number}",
        "step": str(number * 100),
        "stage": "geometric organisation",
        "train": "1.000",
        "held-out": "0.998",
        "violation": "0.0012",
        "dim.": "17",
        "onset": "2118",
        "interval": "2118 (882…5836)",
        "never": "14%",
    }


def lines(runs: Sequence[dict[str, str]], width: int, height: int = 24) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(_table(runs, "following runs; Ctrl-C ends it", width, height))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("number", [1, 4, 12])
def test_a_run_takes_one_line(width: int, number: int) -> None:
    shown = lines([a_run(one) for one in range(number)], width)
    assert len(shown) == number + 2  # headings, and what is followed
    assert max(map(len, shown)) <= width
    for one, line in enumerate(shown[1:-1]):
        name, step, *_ = line.split()
        assert name.endswith(f"/seed={one}"[-11:])  # runs differ at the ends of their names
        assert step == str(one * 100)
        assert "geometric organisation" in line
        assert "0.998" in line
        assert "2118" in line
    assert ("never" in shown[0]) == (width == 120)


def test_a_lone_run_tells_the_interval() -> None:
    assert "2118 (882…5836)" in lines([{**a_run(0), "run": "run"}], 120)[1]


def test_more_runs_than_lines_are_counted() -> None:
    shown = lines([a_run(one) for one in range(30)], 100, height=12)
    assert len(shown) <= 12
    assert shown[-2] == "and 23 more"


def test_a_real_result_and_none(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    monkeypatch.setattr("geomdiag_cli.live_view.stdout", lambda: console)
    tree = gd.analyze(trained, "modadd", analyzers=["fit", "symmetry", "dimension"], workers=1)

    def look(tree: object) -> Look:
        return Look(tree=tree, fresh={}, making=(), errors={}, problem="", changed=True)  # type: ignore[arg-type]

    with View(tmp_path, quiet=False) as view:
        view.show(look(None))
        view.show(look(tree))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert f"waiting for checkpoints in {tmp_path}" in "".join(text.split("\n"))
    accuracy = tree["seed=1"]["accuracy"].sel(part="train").values[-1]
    (line,) = {line for line in text.splitlines() if "seed=1" in line}
    assert line.split()[:2] == ["seed=1", "60"]
    assert f"{accuracy:.3f}" in line
