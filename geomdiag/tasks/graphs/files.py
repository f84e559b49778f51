"""Graphs from files and from NetworkX: what is read, how nodes are numbered, what is refused.

Nodes become tokens 0 ... n-1. Where all labels are whole numbers (in a file: are written as
such), tokens follow them in ascending order; otherwise the order in which nodes first
appear. An adjacency matrix numbers its nodes itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geomdiag.errors import TaskError
from geomdiag.tasks.contract import FloatArray, IntArray
from geomdiag.tasks.graphs.sources import MAX_NODES, Graph

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["from_arrays", "from_networkx", "is_graph_file", "read_graph"]

#: What separates the columns of an edge list; None: white space.
_EDGE_LISTS: Mapping[str, str | None] = {".edgelist": None, ".txt": None, ".csv": ",", ".tsv": "\t"}
#: First two columns of a line that names columns rather than nodes.
_HEADERS = {
    ("source", "target"),
    ("from", "to"),
    ("src", "dst"),
    ("node1", "node2"),
    ("node_1", "node_2"),
    ("node_a", "node_b"),
}


def is_graph_file(name: str) -> bool:
    """Tell whether a name ends as the files do that `read_graph` reads."""
    return Path(name).suffix.lower() in _READERS


def read_graph(path: str | Path) -> Graph:
    """Read a graph from a file.

    GraphML, GML; an edge list (``.edgelist`` or ``.txt`` with white space between columns,
    ``.csv``, ``.tsv``): two nodes a line and, in all lines or in none, the edge's length; lines
    that start with # are skipped, and a first line of column names such as ``source,target``;
    ``.npz``: a SciPy sparse matrix, or one dense array (of several, the one named
    ``adjacency``), whose entries are lengths, 0 for no edge. Lengths of GraphML and GML edges
    are in the attribute ``weight``. Self-loops are left out, as no shortest path uses one; of
    parallel edges the shortest counts.

    Parameters
    ----------
    path : str or Path
        The file; its ending tells the format.

    Returns
    -------
    Graph

    Raises
    ------
    TaskError
        If there is no such file, it cannot be read, or its graph is directed, not connected,
        has fewer than two or more than `MAX_NODES` nodes, or lengths that are not positive.
    """
    path = Path(path)
    where = f"the graph {str(path)!r}"
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise TaskError(
            f"{where}: the file {what}; looked in {str(path.parent.resolve())!r}. Check the path, "
            "or give the name of a graph such as 'lattice-7x7'."
        )
    reader = _READERS[path.suffix.lower()]
    try:
        return reader(path, where)
    except TaskError:
        raise
    except Exception as error:  # the parsers raise whatever their parts raise
        raise TaskError(
            f"{where} cannot be read as {path.suffix.lower()}: {type(error).__name__}: "
            f"{str(error) or 'no reason given'}. Check that the file is whole and that its ending "
            "tells its format."
        ) from error


def from_networkx(graph: nx.Graph[Any], where: str = "the NetworkX graph") -> Graph:
    """Return a NetworkX graph as arrays.

    Parameters
    ----------
    graph : networkx.Graph
        Undirected. The edge attribute ``weight``, on all edges or on none, is their length.
    where : str
        What error messages call it.

    Returns
    -------
    Graph

    Raises
    ------
    TaskError
        As `read_graph`.
    """
    if graph.is_directed():
        raise TaskError(
            f"{where} is directed; geodesic distances must be the same both ways. Make it "
            "undirected, for example with graph.to_undirected()."
        )
    order = _in_order(list(graph.nodes))
    place = {node: number for number, node in enumerate(order)}
    listed: list[tuple[Any, Any, Any]] = list(graph.edges(data="weight"))
    lengths = [length for _, _, length in listed]
    missing = sum(length is None for length in lengths)
    if 0 < missing < len(lengths):
        raise TaskError(
            f"{where}: {missing} of {len(lengths)} edges have no weight. Give all edges a length "
            "in the attribute 'weight', or none."
        )
    ends = np.array([(place[u], place[v]) for u, v, _ in listed], dtype=np.int64).reshape(-1, 2)
    if missing or not lengths:
        return from_arrays(len(order), ends, None, where)
    return from_arrays(len(order), ends, _numbers(lengths, where), where)


def from_arrays(nodes: int, ends: IntArray, lengths: FloatArray | None, where: str) -> Graph:
    """Return a graph after checking that it can be a task.

    Parameters
    ----------
    nodes : int
        Number of nodes.
    ends : (m, 2) int array
        Ends of each edge; self-loops and repeated edges may be among them.
    lengths : (m,) float array or None
        Lengths of the edges; None: all 1.
    where : str
        What error messages call the graph.

    Returns
    -------
    Graph

    Raises
    ------
    TaskError
        As `read_graph`.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if nodes < 2:
        raise TaskError(f"{where} has {nodes} node{'s' * (nodes != 1)}; expected two or more.")
    if nodes > MAX_NODES:
        raise TaskError(
            f"{where} has {nodes} nodes, more than the {MAX_NODES} whose pairs can be tabled. "
            "Take a connected part of it."
        )
    kept = ends[:, 0] != ends[:, 1]
    edges = np.sort(ends[kept], axis=1)
    if lengths is not None:
        lengths = lengths[kept]
        wrong = ~(np.isfinite(lengths) & (lengths > 0))
        if wrong.any():
            u, v = edges[wrong][0]
            raise TaskError(
                f"{where}: the edge between tokens {u} and {v} has the length "
                f"{lengths[wrong][0]:g}; lengths must be positive and finite. Shift, scale or "
                "remove the weights."
            )
    # Of parallel edges the shortest comes first and stays.
    order = np.lexsort((*(() if lengths is None else (lengths,)), edges[:, 1], edges[:, 0]))
    edges = edges[order]
    first = np.ones(len(edges), dtype=bool)
    first[1:] = (edges[1:] != edges[:-1]).any(axis=1)
    edges = edges[first]
    weights = None if lengths is None else lengths[order][first]
    if weights is not None and (weights == 1.0).all():
        weights = None
    links = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(nodes, nodes))
    parts, part = connected_components(links, directed=False)
    if parts > 1:
        raise TaskError(
            f"{where} is not connected: it falls into {parts} parts, the largest with "
            f"{int(np.bincount(part).max())} of its {nodes} nodes. A task needs a distance between "
            "any two nodes: take one part."
        )
    return Graph(nodes=nodes, edges=edges, weights=weights)


def _in_order(labels: Sequence[Hashable]) -> list[Hashable]:
    """Return node labels in the order of their tokens."""
    numbers = [_whole_number(label) for label in labels]
    found = [number for number in numbers if number is not None]
    if len(found) < len(labels) or len(set(found)) < len(found):
        return list(labels)
    return [labels[i] for i in sorted(range(len(labels)), key=found.__getitem__)]


def _whole_number(label: Hashable) -> int | None:
    if isinstance(label, str):
        return int(label) if re.fullmatch(r"[+-]?[0-9]{1,18}", label.strip()) else None
    if isinstance(label, int | np.integer) and not isinstance(label, bool):
        return int(label)
    return None


def _numbers(lengths: Sequence[Any], where: str) -> FloatArray:
    try:
        return np.array([float(length) for length in lengths], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TaskError(
            f"{where} has a weight that is no number ({error}). Weights are the lengths of edges."
        ) from None


def _read_graphml(path: Path, where: str) -> Graph:
    import networkx as nx

    return from_networkx(nx.read_graphml(path), where)


def _read_gml(path: Path, where: str) -> Graph:
    import networkx as nx

    try:
        graph = nx.read_gml(path, label="label")
    except nx.NetworkXError as error:
        if "label" not in str(error):
            raise
        graph = nx.read_gml(path, label="id")  # labels are missing, or not unique
    return from_networkx(graph, where)


def _read_edge_list(path: Path, where: str) -> Graph:
    import networkx as nx

    separator = _EDGE_LISTS[path.suffix.lower()]
    lines = [
        (number, line.strip())
        for number, line in enumerate(path.read_text("utf-8-sig").splitlines(), 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    rows = [(number, [cell.strip() for cell in line.split(separator)]) for number, line in lines]
    if rows and _names_columns(rows[0][1]):
        rows, lines = rows[1:], lines[1:]
    if not rows:
        raise TaskError(f"{where} lists no edge; expected two nodes a line.")
    if all(len(cells) > 2 and cells[2].startswith("{") for _, cells in rows):
        # Attributes as NetworkX writes them.
        text = [line for _, line in lines]
        listed: nx.Graph[Any] = nx.parse_edgelist(text, delimiter=separator, nodetype=str)
        return from_networkx(listed, where)
    width = len(rows[0][1])
    for number, cells in rows:
        if len(cells) not in (2, 3) or len(cells) != width or not all(cells):
            raise TaskError(
                f"{where}, line {number}: found {len(cells)} columns ({' | '.join(cells)}); "
                "expected two nodes and, in all lines or in none, a length. Columns are separated "
                f"by {'white space' if separator is None else repr(separator)} in "
                f"{path.suffix.lower()} files."
            )
    order = _in_order(list(dict.fromkeys(cell for _, cells in rows for cell in cells[:2])))
    place = {node: index for index, node in enumerate(order)}
    ends = np.array([[place[cell] for cell in cells[:2]] for _, cells in rows], dtype=np.int64)
    lengths = _numbers([cells[2] for _, cells in rows], where) if width == 3 else None
    return from_arrays(len(order), ends, lengths, where)


def _names_columns(cells: Sequence[str]) -> bool:
    """Tell whether a line names columns: "source, target", and no length behind them."""
    words = [cell.strip("\"'").lower() for cell in cells]
    if tuple(words[:2]) not in _HEADERS:
        return False
    try:
        return not words[2:] or math.isnan(float(words[2]))
    except ValueError:
        return True


def _read_adjacency(path: Path, where: str) -> Graph:
    from scipy import sparse

    with np.load(path, allow_pickle=False) as stored:
        names = list(stored.files)
        dense: NDArray[Any] | None = None
        if not {"format", "shape", "data"} <= set(names):
            chosen = names[0] if len(names) == 1 else "adjacency"
            if chosen not in names:
                raise TaskError(
                    f"{where} holds {len(names)} arrays ({', '.join(names) or 'none'}); expected "
                    "one, or one that is named 'adjacency'."
                )
            dense = stored[chosen]
    matrix = sparse.load_npz(path) if dense is None else np.atleast_2d(dense)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.dtype.kind not in "biuf":
        raise TaskError(
            f"{where} holds an array of shape {matrix.shape} and type {matrix.dtype}; expected a "
            "square matrix of numbers, nodes by nodes."
        )
    matrix = sparse.coo_array(matrix)
    nodes = int(matrix.shape[0])
    if nodes > MAX_NODES:
        return from_arrays(nodes, np.empty((0, 2), dtype=np.int64), None, where)  # says so
    values = np.asarray(matrix.toarray(), dtype=np.float64)
    if not np.array_equal(values, values.T, equal_nan=True):
        raise TaskError(
            f"{where} is not symmetric: the graph is directed. Geodesic distances must be the same "
            "both ways; symmetrise it, for example with numpy.maximum(A, A.T)."
        )
    ends = np.stack(np.nonzero(np.triu(values)), axis=1).astype(np.int64)
    return from_arrays(nodes, ends, values[ends[:, 0], ends[:, 1]], where)


_READERS: dict[str, Callable[[Path, str], Graph]] = {
    ".graphml": _read_graphml,
    ".gml": _read_gml,
    ".npz": _read_adjacency,
    **dict.fromkeys(_EDGE_LISTS, _read_edge_list),
}
