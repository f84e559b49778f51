"""The geometry that training leads to is held against geometry/test_geometry.*.toml."""

import geomdiag as gd
from geomdiag.training import train


def test_training(tmp_path, request, geometry_regression):
    """Five seeds, trained and measured anew."""
    train(request.path.parent / "recipe.toml", tmp_path)
    tree = gd.analyze(tmp_path / "quick", "modadd:p=17", workers=1)
    geometry_regression.check(tree)


def test_numbers_of_ones_own(geometry_regression):
    """Any number will do, or a list with one a seed."""
    identity = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    geometry_regression.check({"effective_dimension": gd.effective_dimension(identity)})
