"""Settings that hold for every test: the CPU with eight emulated devices, no network, absl flags parsed.

XLA and the Hugging Face libraries read the environment when they are imported, so it is set before anything else.
"""

import contextlib
import fcntl
import importlib.metadata
import os
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
# Tests compile more than they compute: LLVM's passes over the loops between the matrix products are left out.
_FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    # Compilation takes twice the time with them. Later versions lack the flag, and take no unknown one.
    _FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}".strip()
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "Agg"
# Tests that build the same program again take it from this folder, which lives as long as pytest; its workers share it.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _COMPILED = tempfile.TemporaryDirectory(prefix="tsrec-jax-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _COMPILED.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import pathlib

import pytest
from absl import flags

# Grain's worker processes read absl flags, which nobody parses under pytest.
flags.FLAGS.mark_as_parsed()

SHARED_DATA = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data" / "amazon"


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of the real Amazon datasets, beside the checkout; skips where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the real Amazon datasets in ../shared/data/amazon, which are not here")
    return SHARED_DATA


@pytest.fixture
def as_somebody_else(tmp_path):
    """A context in which files of mode 0 cannot be read: root reads them, so it becomes another user inside."""

    @contextlib.contextmanager
    def other():
        if os.geteuid() != 0:
            yield
            return
        for folder in (tmp_path, *tmp_path.parents):
            if pathlib.Path(tempfile.gettempdir()) in folder.parents:
                folder.chmod(0o755)
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)

    return other


@pytest.fixture(scope="session")
def quickstart_run(tmp_path_factory) -> pathlib.Path:
    """The workdir of a finished run of `configs/quickstart.py`, tiny; tests that change it copy it first.

    Made once: pytest's workers share it.
    """
    from tests.pipeline.small import SMALL
    from tsrec_jax.main import main

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    workdir, made = folder / "quickstart", folder / "quickstart.made"
    with open(folder / "quickstart.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            config = pathlib.Path(__file__).resolve().parents[1] / "configs" / "quickstart.py"
            assert main(["run", f"--config={config}", *SMALL, f"--workdir={workdir}"]) == 0
            made.touch()
    return workdir
