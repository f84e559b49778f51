"""Pictures of the evaluation draw what they are given."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from geomdiag.plots.backtest import plot_alarms, plot_errors, plot_reliability
from geomdiag.plots.style import save_figure

ERRORS = {
    "geometry": {0.3: 0.5, 0.9: 0.2},
    "losses": {0.3: 0.4, 0.9: 0.1},
    "elapsed steps": {0.3: 2.0, 0.9: 3.0},
}


def test_errors_are_drawn_over_the_way() -> None:
    ax = plot_errors(ERRORS)
    lines = {line.get_label(): line for line in ax.get_lines()}
    for name, found in ERRORS.items():
        np.testing.assert_allclose(lines[name].get_xdata(), [30, 90])
        np.testing.assert_allclose(lines[name].get_ydata(), list(found.values()))
    assert len({lines[name].get_color() for name in ERRORS}) == 3
    assert ax.get_yscale() == "log"


def test_reliability_is_drawn_in_percent_beside_the_diagonal() -> None:
    ax = plot_reliability({"geometry, 2 times": [(0.1, 0.2, 9), (0.9, 0.7, 3)]})
    diagonal, line = ax.get_lines()
    np.testing.assert_allclose(diagonal.get_ydata(), [0, 100])
    np.testing.assert_allclose(line.get_xdata(), [10, 90])
    np.testing.assert_allclose(line.get_ydata(), [20, 70])


def test_alarms_are_drawn_requested_against_achieved(tmp_path) -> None:  # type: ignore[no-untyped-def]
    rates = {"geometry": [(0.01, 0.03, 0.2), (0.2, 0.25, 0.9)]}
    ax = plot_alarms(rates)
    line = ax.get_lines()[0]
    np.testing.assert_allclose(line.get_xdata(), [1, 20])
    np.testing.assert_allclose(line.get_ydata(), [3, 25])
    one = save_figure(ax, tmp_path / "one.svg").read_bytes()
    assert one == save_figure(plot_alarms(rates), tmp_path / "two.svg").read_bytes()
