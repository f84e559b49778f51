"""The report: what it says, in which order, and that it needs nothing else."""

from __future__ import annotations

import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import xarray as xr
from result_makers import full_run, full_tree

import geomdiag as gd
from geomdiag.errors import GeomdiagError
from geomdiag.summary import summarise

plt = pytest.importorskip("matplotlib.pyplot")
plt.switch_backend("agg")


from geomdiag.report import render, report  # noqa: E402

SERIES = Path(__file__).resolve().parents[2] / "fixtures" / "series"


class Page(HTMLParser):
    """What a page consists of: headings, ids, links, labels, text, data and the runs' table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append((tag, values))
        self._in = tag
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and "data-value" in values:
            self.rows[-1].append(values["data-value"])

    def handle_data(self, data: str) -> None:
        if self._in not in ("script", "style"):
            self.words.append(data)

    def all(self, *names: str) -> list[dict[str, str]]:
        return [values for tag, values in self.tags if tag in names]

    @property
    def data(self) -> list[dict[str, Any]]:
        links = [one["href"] for one in self.all("a") if one.get("class") == "data"]
        return [json.loads(unquote(link.partition(",")[2])) for link in links]


@pytest.fixture(scope="module")
def tree() -> xr.DataTree:
    return full_tree(3, steps=30)


@pytest.fixture(scope="module")
def text(tree: xr.DataTree) -> str:
    return render(tree)


def test_the_verdict_comes_first_and_answers_four_questions(text: str) -> None:
    order = [
        text.index(f">{heading}</h2>")
        for heading in ("Verdict", "Runs", "Step by step", "Figures and numbers")
    ]
    assert order == sorted(order)
    verdict = text[order[0] : order[1]]
    for question in ("Which stage", "Since when", "How sure", "What comes next"):
        assert verdict.count(f"<dt>{question}<dd>") == 3
    assert "3 runs: 2 of 3 generalised" in text


def test_every_run_and_its_numbers_are_in_the_table(tree: xr.DataTree, text: str) -> None:
    page = Page(text)
    headings = re.findall(r"<th scope=col data-kind=\w+>([^<]*)", text)
    rows = {row[0]: dict(zip(headings, row, strict=True)) for row in page.rows if len(row) > 3}
    assert list(rows) == ["seed=0", "seed=1", "seed=2"]
    for one in summarise(tree):
        row = rows[one["run"]]
        assert float(row["held-out accuracy"]) == one["accuracy"]["heldout"]
        at = one["boundaries"]["t_generalised"]["step"]
        assert row["generalised"] == ("" if at is None else str(at))
        assert (
            float(row["commutativity (nat)"])
            == (one["symmetry_violation"]["commutativity"]["last"])
        )


def test_the_downloads_hold_the_result_s_own_numbers(tree: xr.DataTree, text: str) -> None:
    for one in Page(text).data:
        dataset = tree[one["run"]].to_dataset()
        assert one["steps"] == dataset["step"].values.tolist()
        courses = {course["key"]: course["values"] for course in one["courses"]}
        wanted = {
            "accuracy[heldout]": dataset["accuracy"].sel(part="heldout"),
            "symmetry_js[mean,commutativity]": dataset["symmetry_js"].sel(
                symmetry="commutativity", statistic="mean"
            ),
            "dimension[embedding,effective_dimension]": dataset["dimension"].sel(
                matrix="embedding", measure="effective_dimension"
            ),
            "onset[0.5,losses]": dataset["onset"].sel(quantile=0.5, forecast_mode="losses"),
        }
        for key, values in wanted.items():
            held = [np.nan if v is None else float(v) for v in courses[key]]
            assert np.array_equal(held, values.values.astype(np.float64), equal_nan=True), key
        power = np.array(one["spectrum"]["power"], dtype=np.float64)
        assert np.allclose(power, dataset["power"].sel(matrix="embedding").values, rtol=1e-4)
        assert one["spectrum"]["key"] == [k % 5 == 2 for k in range(15)]


def test_the_page_loads_nothing(text: str) -> None:
    page = Page(text)
    for _, values in page.tags:
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            assert values.get(name, "#").startswith(("#", "data:")), values
    assert not re.search(r"@import|url\((?!#)", text)
    (policy,) = [one["content"] for one in page.all("meta") if "http-equiv" in one]
    assert policy.startswith("default-src 'none'")


def test_the_markup_can_be_found_one_s_way_in(text: str) -> None:
    page = Page(text)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    names = [values["id"] for _, values in page.tags if "id" in values]
    assert len(names) == len(set(names))
    used = {one["for"] for one in page.all("label", "output")}
    used |= {one["aria-labelledby"] for one in page.all("section", "footer")}
    used |= set(re.findall(r'(?:href="|url\()#([^")]+)', text.partition("<script>")[0]))
    assert used <= set(names)
    assert len(page.all("caption")) == len(page.all("table"))
    assert all("scope" in one for one in page.all("th"))
    images = [one for one in page.all("svg") if "hidden" not in one]
    assert all(one["role"] == "img" for one in images)
    assert sum("aria-label" in one for one in images) == len(images) - 3  # the script names three


def test_the_same_result_gives_the_same_page(tree: xr.DataTree, text: str) -> None:
    nodes = {f"/{name}": tree[name].to_dataset() for name in reversed(list(tree))}
    again = xr.DataTree.from_dict(nodes)
    again.attrs = tree.attrs
    assert render(again) == text


def test_twenty_runs_of_a_hundred_steps_stay_small() -> None:
    size = len(render(full_tree(20, steps=100, blocks=56)).encode())
    assert size < 5_000_000
    assert size > 1_000_000  # the numbers are in there


def test_names_stay_text() -> None:
    run = full_run(1, steps=12)
    evil = "<script>alert(1)</script>&\"'%22#"
    run.attrs |= {"run": evil, "task": evil, "notices": evil}
    run["status"].values[3] = "failed"
    run["error"] = ("step", ["", "", "", evil, *[""] * 8])
    text = render(xr.DataTree.from_dict({"/a": run}), title=evil)
    assert "<script>alert" not in text
    assert text.count("<script") == 1
    page = Page(text)
    assert page.data[0]["run"] == evil
    assert evil in "".join(page.words)
    assert page.rows[1][0] == evil
    assert re.fullmatch(
        r"[\w.=-]+", next(one["download"] for one in page.all("a") if "download" in one)
    )


def test_failed_checkpoints_are_told_before_the_verdict() -> None:
    run = full_run(1, steps=12)
    run["status"].values[5] = "failed"
    run["error"] = ("step", [*[""] * 5, "the file is cut short", *[""] * 6])
    for name in ("accuracy", "power"):
        run[name].values[5] = np.nan
    text = render(xr.DataTree.from_dict({"/a": run}))
    warning = text.index("1 of 12 checkpoints failed")
    assert text.index(">Verdict</h2>") < warning < text.index("<dt>Which stage")
    assert "the file is cut short" in text[warning : warning + 200]
    data = Page(text).data[0]
    assert data["status"][5] == "failed"
    assert data["spectrum"]["power"][5] is None
    assert data["courses"][0]["values"][5] is None


def test_a_run_that_nothing_is_known_of_is_still_told() -> None:
    attrs = {"run": "a", "task": "modadd:p=5"}
    failed = xr.Dataset(
        {"status": ("step", ["failed"]), "error": ("step", ["no tensors"])}, {"step": [7]}, attrs
    )
    text = render(xr.DataTree.from_dict({"/a": failed, "/b": xr.Dataset(attrs={"run": "b"})}))
    assert text.count("no checkpoint of this run could be analysed") == 3
    assert "No figure: a: found no accuracy" in text
    assert "No number of this run is known" in text
    assert [one["steps"] for one in Page(text).data] == [[7]]
    assert re.findall(r"<option value=(\d)", text) == ["0"]


def test_missing_variables_are_missing_with_their_reason() -> None:
    run = full_run(1, steps=12).drop_vars(["power", "key_block", "key_p_value"])
    run = run.drop_dims("block", errors="ignore")
    run.attrs["not_computed"] = json.dumps({"spectrum": "the embedding has 3 rows"})
    text = render(xr.DataTree.from_dict({"/a": run}))
    assert "the result has no &#x27;power&#x27; (spectrum: the embedding has 3 rows)" in text
    assert "No spectrum: the embedding has 3 rows" in text
    assert Page(text).data[0]["spectrum"] is None
    assert "There is no forecast in this result." in text
    assert "This result tells no boundaries" in text


def test_one_checkpoint_is_enough() -> None:
    run = full_run(1, steps=12).isel(step=[11])
    data = Page(render(gd.segment(xr.DataTree.from_dict({"/a": run}), samples=19))).data[0]
    assert data["steps"] == [4000]
    assert len(data["stages"]) == 1
    assert all(len(course["values"]) == 1 for course in data["courses"])


def test_epochs_are_called_so() -> None:
    run = full_run(1, steps=12)
    run["step"].attrs["long_name"] = "epoch"
    tree = gd.forecast(gd.segment(xr.DataTree.from_dict({"/a": run}), samples=19))
    one = Page(render(tree)).data[0]
    assert one["unit"] == "epoch"
    assert "epoch" in one["verdict"]["stage"]
    assert {c["unit"] for c in one["courses"] if c["key"].startswith("onset[")} == {"epoch"}


def test_many_runs_show_their_development_only() -> None:
    text = render(full_tree(9, steps=8))
    assert text.count("<figcaption>") == 9 + 1  # and one of all runs
    assert "With more than 8 runs" in text


def test_many_key_blocks_are_shortened_but_kept() -> None:
    text = render(xr.DataTree.from_dict({"/a": full_run(1, steps=8, blocks=56)}))
    blocks = ", ".join(f"k={k + 1}" for k in range(56) if k % 5 == 2)
    assert sorted(Page(text).rows[1][-1].split(", ")) == sorted(blocks.split(", "))
    assert re.search(r">k=\d+, k=\d+, k=\d+, k=\d+ and 7 more", text)


def test_runs_are_in_the_order_of_their_numbers() -> None:
    tree = xr.DataTree.from_dict({f"/seed={i}": full_run(i, steps=8) for i in (10, 9, 1)})
    assert [one["run"] for one in Page(render(tree)).data] == ["seed=1", "seed=9", "seed=10"]


def test_the_embedding_of_real_checkpoints_is_on_the_page(tmp_path: Path) -> None:
    runs = gd.open_runs(SERIES / "comparison-5x5-transformer")
    tree = gd.analyze(runs, task="comparison:5x5", analyzers=["fit", "dimension"])
    path = report(tree, tmp_path / "page.html", runs=runs, task="comparison:5x5")
    one = Page(path.read_text(encoding="utf-8")).data[0]
    assert len(one["tokens"]["points"]) == len(one["steps"])
    assert all(len(points) == 2 * 25 for points in one["tokens"]["points"])
    assert one["tokens"]["colour_label"].startswith("rank in")
    without = Page(render(tree)).data[0]["tokens"]
    assert "--checkpoints" in without["reason"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["page.html"]


def test_what_cannot_be_reported_is_an_error(tree: xr.DataTree) -> None:
    with pytest.raises(GeomdiagError, match="holds no run"):
        render(xr.DataTree())
    runs = gd.open_runs(SERIES / "comparison-5x5-transformer")
    with pytest.raises(GeomdiagError, match="without a task"):
        render(tree, runs=runs)
    other = xr.DataTree.from_dict({"/z": full_run(1, steps=8).assign_attrs(run="z")})
    with pytest.raises(GeomdiagError, match=r"of other runs \(.*\) than the result \(z\)"):
        render(other, runs=runs, task="comparison:5x5")
