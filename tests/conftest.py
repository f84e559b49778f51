"""Fixtures that every part of the tests shares."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Generator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("geomdiag", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("geomdiag")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real checkpoints that are not part of the repository."""
    folder = Path(os.environ.get("GEOMDIAG_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real checkpoints: {folder} is absent (set GEOMDIAG_TEST_DATA)")
    return folder


@cache
def _promised() -> frozenset[str]:
    """Return the modules that the extra test-formats brings."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = list(extras["test-formats"])
    own = re.match(r"geomdiag\[(.*)\]", wanted[0])
    wanted += [each for name in (own[1] if own else "").split(",") for each in extras.get(name, ())]
    return frozenset(re.split(r"[^a-z0-9_]", each.lower())[0] for each in wanted) - {"geomdiag"}


def _missed(report: Any) -> str:
    """Return why a skip is a failure under `make test-formats`: a writer that should be there."""
    if not (report.skipped and os.environ.get("GEOMDIAG_WRITERS_REQUIRED")):
        return ""
    reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
    found = re.search(r"could not import '(\w+)|\b(\w+) is not installed", reason)
    if found is None or (found[1] or found[2]) not in _promised():
        return ""
    return f"{reason}: the extra test-formats should have brought it"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if why := _missed(report):
        report.outcome, report.longrepr = "failed", why
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if why := _missed(report):  # a module that skips as a whole
        report.outcome, report.longrepr = "failed", why
    return report
