"""Pytest plugin: the fixture ``geometry_regression`` and the option ``--geometry-update``.

Every pytest run of an environment with geomdiag loads this file, so it imports nothing but
pytest; the rest comes when a test uses the fixture.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

if TYPE_CHECKING:
    import xarray as xr

    from geomdiag.gate.verdict import Verdict

    Given = (
        xr.DataTree | xr.Dataset | Mapping[str, float | Sequence[float]] | str | os.PathLike[str]
    )

__all__ = ["GeometryRegression", "geometry_regression"]

_UPDATE = "--geometry-update"
_WRITTEN = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that writes baselines."""
    parser.getgroup("geomdiag").addoption(
        _UPDATE,
        action="store_true",
        help="write the baselines of geometry_regression from what is measured now",
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell which baselines were written."""
    written = terminalreporter.config.stash.get(_WRITTEN, [])
    for path in written:
        terminalreporter.write_line(f"geometry baseline written: {path}")
    if written:
        terminalreporter.write_line("Review them, and commit them.")


class GeometryRegression:
    """Holds geometry against a baseline that lies beside the test.

    Parameters
    ----------
    request : pytest.FixtureRequest
    """

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._config = request.config
        self._folder = request.path.parent / "geometry"
        _, _, test = request.node.nodeid.partition("::")
        self._stem = quote(f"{request.path.stem}.{test.replace('::', '.')}", safe=" =[](),+")
        self._used: set[str] = set()

    def check(
        self,
        result: Given,
        *,
        metrics: Sequence[str] | None = None,
        name: str = "",
        level: float | None = None,
        correction: str | None = None,
    ) -> Verdict | None:
        """Fail the test if the geometry is worse than the baseline's.

        Parameters
        ----------
        result : xr.DataTree, xr.Dataset, path, or mapping of str to float or sequence of float
            As `geomdiag.analyze` gives it, one run of it, where it is stored, or numbers by
            name, one a seed.
        metrics : sequence of str, optional
            Names of the metrics of a new baseline, ``*`` standing for anything. Default: a few
            of a result, all of a mapping.
        name : str
            Tells several checks of one test apart.
        level : float, optional
            Chance that runs without a change fail. Default: the baseline's.
        correction : {"family-wise", "benjamini-hochberg", "none"}, optional
            For the number of metrics. Default: the baseline's.

        Returns
        -------
        Verdict or None
            None where the baseline was written (``--geometry-update``).

        Raises
        ------
        pytest.fail.Exception
            If there is no baseline, if it does not fit, or if the geometry regressed.
        """
        __tracebackhide__ = True
        import xarray as xr

        from geomdiag.errors import GeomdiagError
        from geomdiag.gate.baseline import load_baseline, make_baseline, save_baseline
        from geomdiag.gate.measured import measure
        from geomdiag.gate.verdict import check
        from geomdiag.store import load

        if name in self._used:
            pytest.fail(
                "geometry_regression was called twice in one test; give each call a name of its "
                "own: geometry_regression.check(result, name=...)",
                pytrace=False,
            )
        self._used.add(name)
        file = self._folder / f"{self._stem}{quote('.' + name, safe='') if name else ''}.toml"
        shown = os.path.relpath(file, self._config.rootpath)
        try:
            given = load(result) if isinstance(result, str | os.PathLike) else result
            if not isinstance(given, xr.Dataset | xr.DataTree):
                metrics = metrics or tuple(given)
            measured = measure(given)
            if self._config.getoption(_UPDATE):
                old = load_baseline(file) if file.exists() else None
                save_baseline(make_baseline(measured, metrics=metrics, like=old), file)
                self._config.stash.setdefault(_WRITTEN, []).append(shown)
                return None
            if not file.exists():
                pytest.fail(
                    f"there is no baseline at {shown}.\nRun `pytest {_UPDATE}` to write it from "
                    "what is measured now; then review it, and commit it.",
                    pytrace=False,
                )
            verdict = check(measured, load_baseline(file), level=level, correction=correction)
        except GeomdiagError as error:
            pytest.fail(f"geometry cannot be compared: {error}", pytrace=False)
        if not verdict.passed:
            pytest.fail(_message(verdict, shown), pytrace=False)
        return verdict


def _message(verdict: Verdict, shown: str) -> str:
    from geomdiag.gate.reports import headline, number

    rows = [
        f"  {row.metric}: {row.verdict}; baseline {number(row.baseline)}, now "
        f"{number(row.value)}, worse: {row.worse} ({row.words})"
        for row in verdict.failed
    ]
    notices = [f"  {notice}" for notice in verdict.notices]
    action = (
        f"If the change is meant, run `pytest {_UPDATE}` and commit {shown}; to tolerate it, "
        "raise the metric's absolute, relative or spread there."
    )
    return "\n".join([headline(verdict), *rows, *notices, action])


@pytest.fixture
def geometry_regression(request: pytest.FixtureRequest) -> GeometryRegression:
    """Hold a result's geometry against the baseline beside the test: `check(result)`."""
    return GeometryRegression(request)
