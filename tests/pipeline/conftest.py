"""What keeps whole runs and studies short."""

import functools

import jax
import pytest
from matplotlib.figure import Figure
from PIL import Image


@pytest.fixture(scope="module", autouse=True)
def hurried():
    """Figures stay empty, and programs stay from one cell of a study to the next: half the time of a small study.

    tests/evaluation and tests/sid draw figures, and so does `quickstart_run`, by what is wrapped here.
    """

    @functools.wraps(Figure.savefig)
    def save(_figure, path, **_):
        Image.new("RGB", (1, 1)).save(path, format="png")

    @functools.wraps(Figure.tight_layout)
    def leave(*_):
        pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", save)
        patch.setattr(Figure, "tight_layout", leave)
        patch.setattr(jax, "clear_caches", lambda: None)
        yield
