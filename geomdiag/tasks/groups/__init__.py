"""Finite groups: Cayley tables, real irreducible representations, and dual groups."""

from geomdiag.tasks.groups.dual import Dual, dual
from geomdiag.tasks.groups.finite import FiniteGroup
from geomdiag.tasks.groups.named import finite_group
from geomdiag.tasks.groups.representations import Irrep, irreps
from geomdiag.tasks.groups.tables import group_from_table, read_table

__all__ = [
    "Dual",
    "FiniteGroup",
    "Irrep",
    "dual",
    "finite_group",
    "group_from_table",
    "irreps",
    "read_table",
]
