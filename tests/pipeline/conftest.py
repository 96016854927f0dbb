"""What keeps whole runs and studies short."""

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

    def nothing(*_):
        pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", save)
        patch.setattr(Figure, "tight_layout", nothing)
        patch.setattr(jax, "clear_caches", nothing)
        yield
