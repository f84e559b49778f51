"""Distances from inner products are those of the differences, near pairs included."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform

from geomdiag.metrics._checks import pairwise_distances


@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize("gap", [0.0, 1e-12, 1e-6, 1e-2])
def test_differences_are_kept_however_small(offset, gap):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(40, 30)) + offset
    points[1] = points[0] + gap * rng.normal(size=30)
    points[7] = points[3]
    expected = squareform(pdist(points))
    found = pairwise_distances(points)
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=0.0)
    np.testing.assert_array_equal(found, found.T)
    assert found[3, 7] == 0.0


def test_one_row_far_from_a_heap():
    rng = np.random.default_rng(1)
    points = 1e-7 * rng.normal(size=(20, 3))
    points[4] += 1e6
    np.testing.assert_allclose(pairwise_distances(points), squareform(pdist(points)), rtol=1e-11)


@pytest.mark.parametrize("points", [np.ones((1, 3)), np.ones((5, 2)), np.eye(3) * 1e200])
def test_no_distance_is_made_up(points):
    expected = squareform(pdist(points)) if len(points) > 1 else np.zeros((1, 1))
    np.testing.assert_array_equal(pairwise_distances(points), expected)
