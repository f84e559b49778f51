"""The page in a real Chromium: no errors, the slider moves, the table sorts, files come out.

Needs the Python package playwright and a Chromium: the one that `playwright install chromium`
fetches, or the program that GEOMDIAG_CHROMIUM names.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from result_makers import full_tree

import geomdiag as gd

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
plt = pytest.importorskip("matplotlib.pyplot")
plt.switch_backend("agg")
pytestmark = pytest.mark.browser

from geomdiag.report import report  # noqa: E402

GRID = Path(__file__).resolve().parents[2] / "fixtures" / "series" / "comparison-5x5-transformer"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        own = os.environ.get("GEOMDIAG_CHROMIUM") or started.chromium.executable_path
        program = own if Path(own).exists() else shutil.which("chromium")
        if program is None:
            pytest.skip("no Chromium: set GEOMDIAG_CHROMIUM, or run `playwright install chromium`")
        browser = started.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def tree() -> xr.DataTree:
    return full_tree(3, steps=20)


@pytest.fixture(scope="module")
def path(tree: xr.DataTree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(tree, tmp_path_factory.mktemp("page") / "runs.html")


@pytest.fixture(scope="module")
def grid_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = gd.open_runs(GRID)
    tree = gd.analyze(runs, task="comparison:5x5", analyzers=["fit", "dimension", "spectrum"])
    target = tmp_path_factory.mktemp("page") / "grid.html"
    return report(tree, target, runs=runs, task="comparison:5x5")


class Opened:
    """A page, and all that it complained of or asked the network for."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._asked)
        self.page.goto(path.as_uri())

    def _asked(self, request: Any) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.complaints.append(request.url)

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_it_loads_without_errors_in_its_width(
    chromium: Any, path: Path, grid_path: Path, scheme: str, width: int
) -> None:
    for one in (path, grid_path):
        size = {"width": width, "height": 800}
        with Opened(chromium, one, color_scheme=scheme, viewport=size) as opened:
            assert opened.complaints == []
            assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
            back = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (back == "rgb(255, 255, 255)") == (scheme == "light")
            ink = "getComputedStyle(document.querySelector('svg.figure text')).fill"
            assert opened.page.evaluate(ink) == opened.page.evaluate(
                "getComputedStyle(document.body).color"
            )


def test_phases_have_the_colours_of_the_figures(chromium: Any, tmp_path: Path) -> None:
    for file in ("step_005000.safetensors", "run.json"):
        shutil.copy(GRID.parent / "modadd-p31-mlp" / "seed=0" / file, tmp_path)
    runs = gd.open_runs(tmp_path)
    tree = gd.analyze(runs, task="modadd:p=31", analyzers=["fit", "spectrum"])
    path = report(tree, tmp_path / "circle.html", runs=runs, task="modadd:p=31")
    with Opened(chromium, path) as opened:
        fills = (
            "[...document.querySelectorAll('#tokens circle')].map((c) => c.getAttribute('fill'))"
        )
        found = [re.findall(r"\d+", fill) for fill in opened.page.evaluate(fills)]
        assert "phase at k=15" in opened.page.inner_text("#tokens")
        assert opened.complaints == []
    phases = 15 * np.arange(31) % 31 / 31
    expected = 255 * plt.get_cmap("twilight")(phases)[:, :3]
    np.testing.assert_allclose(np.array(found, dtype=float), expected, atol=16)


def test_the_slider_moves_embedding_and_spectrum_by_keyboard(
    chromium: Any, grid_path: Path
) -> None:
    with Opened(chromium, grid_path) as opened:
        page = opened.page

        def state() -> list[str]:
            return [
                page.inner_text("#step-told"),
                page.get_attribute("#step", "aria-valuetext"),
                page.get_attribute("#tokens circle:first-of-type", "cx"),
                page.get_attribute("#spectrum rect:first-of-type", "height"),
                page.get_attribute("#spectrum svg", "aria-label"),
                page.inner_text("#values tbody"),
                page.get_attribute("#course .now", "x1"),
            ]

        last = state()
        page.focus("#step")
        page.keyboard.press("Home")
        first = state()
        assert first[0].startswith("step 0")
        assert all(before != after for before, after in zip(last, first, strict=True))
        page.keyboard.press("ArrowRight")
        second = state()
        assert second[0] != first[0]
        page.keyboard.press("End")
        assert state() == last
        assert opened.complaints == []


def test_bars_are_as_high_as_the_result_says(chromium: Any, path: Path, tree: xr.DataTree) -> None:
    with Opened(chromium, path) as opened:
        page = opened.page
        page.select_option("#run", label="seed=1")
        page.focus("#step")
        page.keyboard.press("Home")
        for _ in range(4):
            page.keyboard.press("ArrowRight")
        heights = page.eval_on_selector_all(
            "#spectrum rect", "bars => bars.map(bar => Number(bar.getAttribute('height')))"
        )
        power = tree["seed=1"]["power"].sel(matrix="embedding").values
        assert np.allclose(np.array(heights) / 190, power[4] / power.max(), atol=1e-4)
        marked = page.eval_on_selector_all(
            "#spectrum rect", "bars => bars.map(bar => bar.classList.contains('key'))"
        )
        assert marked == [k % 5 == 2 for k in range(15)]


def test_the_table_sorts_both_ways_with_gaps_last(chromium: Any, path: Path) -> None:
    with Opened(chromium, path) as opened:
        page = opened.page

        def column(name: str) -> list[str]:
            return page.evaluate(  # type: ignore[no-any-return]
                """name => {
                  const heads = [...document.querySelectorAll('#runs-table thead th')];
                  const at = heads.findIndex(head => head.textContent === name);
                  return [...document.querySelectorAll('#runs-table tbody tr')]
                    .map(row => row.cells[at].dataset.value);
                }""",
                name,
            )

        heading = page.locator("#runs-table thead th", has_text="generalised")
        heading.locator("button").focus()
        page.keyboard.press("Enter")
        assert heading.get_attribute("aria-sort") == "ascending"
        up = column("generalised")
        assert up[-1] == ""  # one run did not
        assert float(up[0]) < float(up[1])
        page.keyboard.press("Enter")
        assert heading.get_attribute("aria-sort") == "descending"
        assert column("generalised") == [up[1], up[0], ""]
        page.locator("#runs-table thead th button").first.click()
        assert column("run") == ["seed=0", "seed=1", "seed=2"]
        assert heading.get_attribute("aria-sort") == "none"


def test_the_theme_can_be_turned(chromium: Any, path: Path) -> None:
    with Opened(chromium, path, color_scheme="dark") as opened:
        page = opened.page
        assert page.inner_text("#theme") == "Light colours"
        page.click("#theme")
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert back == "rgb(255, 255, 255)"
        assert page.inner_text("#theme") == "Dark colours"


def test_every_number_can_be_taken_away(chromium: Any, path: Path, tree: xr.DataTree) -> None:
    with Opened(chromium, path, accept_downloads=True) as opened:
        page = opened.page

        def taken(selector: str) -> tuple[str, str]:
            with page.expect_download() as caught:
                page.locator(selector).first.click()
            download = caught.value
            text = Path(download.path()).read_text(encoding="utf-8")
            return download.suggested_filename, text

        name, text = taken("#save-steps")
        assert name == "steps.csv"
        rows = list(csv.DictReader(text.splitlines()))
        assert len(rows) == 3 * 20
        for row in rows:
            at = tree[row["run"]].to_dataset().sel(step=int(row["step"]))
            assert float(row["accuracy[heldout]"]) == float(at["accuracy"].sel(part="heldout"))
            assert float(row["power[embedding,k=3]"]) == pytest.approx(
                float(at["power"].sel(matrix="embedding", block="k=3")), rel=1e-4
            )
        name, text = taken("#save-runs")
        assert [row["run"] for row in csv.DictReader(text.splitlines())] == [
            "seed=0", "seed=1", "seed=2"
        ]  # fmt: skip
        name, text = taken("#save-all")
        assert [one["run"] for one in json.loads(text)["runs"]] == ["seed=0", "seed=1", "seed=2"]
        page.click("#runs-table a")  # opens the run
        name, text = taken("#run0 a.data")
        assert name == "seed=0.json"
        assert json.loads(text)["run"] == "seed=0"
        assert opened.complaints == []


def test_without_scripts_all_but_the_slider_is_there(chromium: Any, path: Path) -> None:
    with Opened(chromium, path, java_script_enabled=False) as opened:
        page = opened.page
        assert not page.is_visible("#step")
        assert not page.is_visible("#save-all")
        assert not page.is_visible("#theme")
        assert "needs JavaScript" in page.inner_text("#main")
        assert page.locator("#runs-table tbody tr").count() == 3
        page.locator("#run1 > summary").click()
        assert page.locator("#run1 svg.figure").first.is_visible()
        page.locator("#run1 details summary").click()
        assert page.locator("#run1 details table").is_visible()
