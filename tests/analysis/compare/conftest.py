"""A tiny drawn data set."""

import pytest

from sparse_encoders.datasets import ShapesSettings, make_shapes_dataset


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes_dataset(folder, ShapesSettings(train=4, val=2, size=64))
    return folder
