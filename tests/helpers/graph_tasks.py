"""Graph tasks that several tests look at."""

from __future__ import annotations

import networkx as nx

import geomdiag as gd
from geomdiag.tasks import Composition, Equivalence
from geomdiag.tasks.graph import GraphTask

KNOWN = {
    "path-64": nx.path_graph(64),
    "cycle-64": nx.cycle_graph(64),
    "lattice-7x7": nx.grid_graph([7, 7]),
    "lattice-2x3x4": nx.grid_graph([2, 3, 4]),
    "cylinder-3x7": nx.cartesian_product(nx.path_graph(3), nx.cycle_graph(7)),
    "torus-3x5": nx.grid_graph([3, 5], periodic=True),
    "torus-4x4x3": nx.grid_graph([4, 4, 3], periodic=True),
    "hypercube-7": nx.hypercube_graph(7),
    "tree-2x5": nx.balanced_tree(2, 5),
    "tree-3x2": nx.balanced_tree(3, 2),
}

WEIGHTED = nx.Graph()
WEIGHTED.add_weighted_edges_from(
    [(0, 1, 0.1), (1, 2, 0.2), (0, 2, 0.3), (2, 3, 1.0), (3, 4, 0.3), (0, 4, 2.5)]
)


def graph_task(graph: object, **more: object) -> GraphTask:
    made = gd.task("graph", graph=graph, **more)
    assert isinstance(made, GraphTask)
    return made


def symmetry(task: GraphTask, name: str) -> Equivalence | Composition:
    return next(one for one in task.symmetries if one.name == name)
