import sys

import numpy as np
import pytest

from tsrec_jax.training.host_memory import forget_peak, peak_bytes

SIZE = 200 * 2**20


def test_the_peak_is_of_the_time_since_it_was_forgotten():
    if sys.platform != "linux" or not forget_peak():
        pytest.skip("needs Linux's /proc/self/clear_refs, which is not here")
    before = peak_bytes()
    held = np.ones(SIZE, np.uint8)
    assert peak_bytes() > before + 0.9 * SIZE
    del held
    assert peak_bytes() > before + 0.9 * SIZE, "it is a peak"
    assert forget_peak()
    assert peak_bytes() < before + 0.5 * SIZE
