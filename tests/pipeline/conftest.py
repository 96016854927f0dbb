"""What keeps whole runs and studies short."""

from unittest import mock

import jax
import pytest
from matplotlib.figure import Figure
from PIL import Image


@pytest.fixture(scope="module", autouse=True)
def hurried():
    """Figures stay empty, and programs stay from one cell of a study to the next: half the time of a small study.

    tests/evaluation and tests/sid draw figures.
    """

    def save(_figure, path, **_):
        Image.new("RGB", (1, 1)).save(path, format="png")

    with (
        mock.patch.object(Figure, "savefig", save),
        mock.patch.object(Figure, "tight_layout"),
        mock.patch.object(jax, "clear_caches"),
    ):
        yield
