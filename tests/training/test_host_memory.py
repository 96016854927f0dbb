import subprocess
import sys

import pytest

from tsrec_jax.training.host_memory import forget_peak

# In a process of its own: what other tests leave to be freed would make room for the new memory.
PEAKS = """
import numpy as np
from tsrec_jax.training.host_memory import forget_peak, peak_bytes
size = 200 * 2**20
assert forget_peak()
before = peak_bytes()
held = np.ones(size, np.uint8)
assert peak_bytes() > before + 0.9 * size
del held
assert peak_bytes() > before + 0.9 * size, "it is a peak"
assert forget_peak()
assert peak_bytes() < before + 0.5 * size
"""


def test_the_peak_is_of_the_time_since_it_was_forgotten():
    if sys.platform != "linux" or not forget_peak():
        pytest.skip("needs Linux's /proc/self/clear_refs, which is not here")
    done = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
