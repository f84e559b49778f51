"""What `import geomdiag` offers is there, and only there."""

from __future__ import annotations

import subprocess
import sys

import pytest

import geomdiag as gd


@pytest.mark.parametrize("name", gd.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(gd, name) is not None
    assert name in dir(gd)


def test_the_list_and_the_homes_agree() -> None:
    assert set(gd._HOME_OF) | {"__version__", "errors", "live"} == set(gd.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'segments'"):
        _ = gd.segments


def test_python_dash_m_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "geomdiag", "--help"], capture_output=True, text=True, check=True
    )
    assert "analyze" in done.stdout
