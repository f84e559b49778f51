"""The site tells of everything there is, agrees with the code, and loads nothing from elsewhere."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import geomdiag as gd

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
#: Modules whose public names the reference lists.
PUBLIC = (
    "geomdiag",
    "geomdiag.errors",
    "geomdiag.gate.baseline",
    "geomdiag.gate.measured",
    "geomdiag.gate.verdict",
    "geomdiag.live",
    "geomdiag.live.sinks",
    "geomdiag.plots",
    "geomdiag.report",
    "geomdiag.training",
)
#: Public names that are modules, constants, or listed elsewhere.
NO_ENTRY = {
    "geomdiag.GeomdiagError",  # with the other errors
    "geomdiag.__version__",
    "geomdiag.errors",
    "geomdiag.gate.baseline.CORRECTIONS",
    "geomdiag.gate.baseline.correction_of",
    "geomdiag.gate.verdict.FAILING",
    "geomdiag.gate.verdict.VERDICTS",
    "geomdiag.live",
    "geomdiag.live.Sink",
    "geomdiag.live.sinks",
    "geomdiag.plots.FIGURES",
    "geomdiag.plots.STYLE",
}
EXAMPLES_SKIPPED = {"analyze", "open_runs"}


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_lists_every_public_name_once() -> None:
    text = "".join(page.read_text("utf-8") for page in (DOCS / "api").glob("*.md"))
    entries = re.findall(r"^\.\. auto(\w+):: ([\w.]+)", text, re.MULTILINE)
    listed = [name for kind, name in entries if kind != "module"]
    listed += [
        f"{module}.{name}"
        for kind, module in entries
        if kind == "module"
        for name in importlib.import_module(module).__all__
    ]
    assert len(listed) == len(set(listed))
    public = {
        f"{module}.{name}"
        for module in PUBLIC
        for name in importlib.import_module(module).__all__  # what is there twice is listed once
    }
    missing = public - NO_ENTRY - set(listed)
    assert not missing, f"{sorted(missing)}: add them to a page of docs/api/"
    assert public >= NO_ENTRY


def test_pages_are_what_the_registries_say() -> None:
    module = script("make_pages")
    written = module.pages()
    for path, text in written.items():
        assert path.read_text("utf-8") == text, f"{path.name}: run `python docs/make_pages.py`"
    families = {path.stem for path in written if path.parent == module.FAMILIES}
    assert families == {path.stem for path in module.FAMILIES.glob("*.md")}


@pytest.mark.parametrize("name", sorted(gd.ANALYZERS))
def test_every_diagnostic_has_a_page_with_all_its_parts(name: str) -> None:
    text = (DOCS / "diagnostics" / f"{name}.md").read_text("utf-8")
    assert text.startswith(f"# {name}\n")
    assert "## When it misleads" in text
    assert "range" in text.lower()
    assert name == "fit" or "## References" in text
    assert f"](../figures/diagnostics/{name}.svg)" in text
    assert (DOCS / "figures" / "diagnostics" / f"{name}.svg").is_file()
    listing = (DOCS / "diagnostics" / "index.md").read_text("utf-8")
    assert f"]({name}.md)" in listing
    assert f"\n{name}\n" in listing
    references = " ".join(re.findall(r"arXiv:[\d.]+|doi:[^;\] ,]+", results_of(name)))
    for reference in references.split():
        kind, _, number = reference.partition(":")
        assert number in text, f"{name}: {kind} {number}, which its variables cite"


def results_of(name: str) -> str:
    """Return what the page of results says of a diagnostic."""
    text = (DOCS / "results.md").read_text("utf-8")
    found = re.search(rf"^## `{name}`.*?(?=^## )", text, re.DOTALL | re.MULTILINE)
    return found[0] if found else ""


@pytest.mark.parametrize("name", ["circle", "dimension", "helix", "order"])
def test_pictures_are_what_the_code_draws(name: str, tmp_path: Path) -> None:
    version = pytest.importorskip("matplotlib").__version__
    if f"matplotlib=={version}\n" not in (DOCS.parent / "constraints.txt").read_text("utf-8"):
        pytest.skip(f"drawn by the matplotlib of constraints.txt, not by {version}: other bytes")
    drawn = script("make_diagnostic_figures").draw(name, tmp_path / f"{name}.svg")
    committed = DOCS / "figures" / "diagnostics" / f"{name}.svg"
    assert committed.read_bytes() == drawn.read_bytes(), "run docs/make_diagnostic_figures.py"


def test_public_functions_document_what_they_take_and_return() -> None:
    validate = pytest.importorskip("numpydoc.validate").validate
    wanted = {"GL08", "PR01", "PR02", "RT01"}  # a docstring, every parameter, the result
    wrong = [
        f"{module}.{name}: {text}"
        for module in PUBLIC
        for name in importlib.import_module(module).__all__
        if inspect.isfunction(getattr(importlib.import_module(module), name))
        for code, text in validate(f"{module}.{name}")["errors"]
        if code in wanted
    ]
    assert not wrong


def test_examples_in_docstrings_run() -> None:
    finder = doctest.DocTestFinder()
    runner = doctest.DocTestRunner()
    tried, skipped = 0, set()
    for name in gd.__all__:
        value = getattr(gd, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            for test in finder.find(value, name):
                if any(example.options.get(doctest.SKIP) for example in test.examples):
                    skipped.add(name)
                tried += runner.run(test).attempted
    assert tried > 10
    assert runner.summarize(verbose=False).failed == 0
    assert skipped == EXAMPLES_SKIPPED


def build(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    for package in ("sphinx", "myst_parser", "numpydoc", "furo"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: `make docs` brings it")
    options = ["--quiet", "--fresh-env", "--fail-on-warning", "--keep-going", "--nitpicky"]
    return subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(source), str(out)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_loads_nothing(tmp_path: Path) -> None:
    done = build(DOCS, tmp_path / "html")
    assert done.returncode == 0, done.stderr
    pages = sorted((tmp_path / "html").rglob("*.html"))
    assert len(pages) > 50
    loading = re.compile(
        r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\bsrc=["'](?:https?:)?//"""
        r"""|<link\b(?=[^>]*\brel=["'](?:stylesheet|icon|preload|preconnect|prefetch))[^>]*"""
        r"""\bhref=["'](?:https?:)?//|@import|url\(\s*["']?(?:https?:)?//"""
    )
    for path in [*pages, *(tmp_path / "html").rglob("*.css")]:
        text = path.read_text("utf-8")
        assert not (found := loading.search(text)), f"{path.name}: {found[0]}"
    assert "<math" in (tmp_path / "html" / "diagnostics" / "circle.html").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "text", "words"),
    [
        ("new.md", "# New\n\nText.\n", ""),  # a new page beside the others finds its place
        ("deep/new.md", "# New\n\nText.\n", "isn't included in any toctree"),
        ("new.md", "# New\n\n[gone](nowhere.md)\n", "nowhere.md"),
        ("new.md", "# New\n\n```{eval-rst}\n.. autofunction:: geomdiag.gone\n```\n", "gone"),
    ],
    ids=["placed", "orphan", "dead link", "gone from the code"],
)
def test_a_page_that_is_wrong_fails_the_build(
    page: str, text: str, words: str, tmp_path: Path
) -> None:
    docs = tmp_path / "docs"
    (docs / "_static").mkdir(parents=True)
    (tmp_path / "fixtures").mkdir()
    shutil.copy(DOCS / "conf.py", docs)
    (docs / "_static" / "site.css").touch()
    (docs / "README.md").write_text("# Pages\n\n", encoding="utf-8")
    opening = "# Small\n\n[README.md](README.md)\n\n```{toctree}\n\n*\n```\n"
    (docs / "index.md").write_text(opening, encoding="utf-8")
    (docs / "first.md").write_text("# First\n\n$x^2$\n", encoding="utf-8")
    (docs / page).parent.mkdir(exist_ok=True)
    (docs / page).write_text(text, encoding="utf-8")
    done = build(docs, tmp_path / "html")
    assert (done.returncode != 0) == bool(words), done.stderr
    assert words in done.stderr
