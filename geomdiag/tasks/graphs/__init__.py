"""Graphs as arrays: by name, from files and NetworkX; their distances and automorphisms."""

from geomdiag.tasks.graphs.automorphisms import automorphism_generators, pair_orbits
from geomdiag.tasks.graphs.distances import Distances, geodesic_triples
from geomdiag.tasks.graphs.files import from_networkx, read_graph
from geomdiag.tasks.graphs.sources import Graph, named_graph

__all__ = [
    "Distances",
    "Graph",
    "automorphism_generators",
    "from_networkx",
    "geodesic_triples",
    "named_graph",
    "pair_orbits",
    "read_graph",
]
