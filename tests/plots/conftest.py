"""Figures are drawn without a screen, and closed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

plt = pytest.importorskip("matplotlib.pyplot")
plt.switch_backend("agg")


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")
