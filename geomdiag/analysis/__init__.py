"""Runs × task × analyzers → one `xarray.DataTree`, a node a run.

Owns what is worth doing once: cutting the work by checkpoint, using finished steps again, and
turning what goes wrong with one checkpoint into a row that says so.
"""

from geomdiag.analysis.into import analyze_into
from geomdiag.analysis.result import DERIVED
from geomdiag.analysis.run import analyze

__all__ = ["DERIVED", "analyze", "analyze_into"]
