"""Settings that hold for every test: the CPU with eight emulated devices, no network, absl flags parsed.

XLA and the Hugging Face libraries read the environment when they are imported, so it is set before anything else.
"""

import contextlib
import fcntl
import fnmatch
import gc
import importlib.metadata
import inspect
import os
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
# Tests spend more time compiling than computing: LLVM's passes over the loops between matrix products are left out.
_FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    # Compilation takes twice the time with fusion emitters, and a tenth more where a program is cut into parts for
    # several threads. Later versions lack the first flag, and take no unknown one.
    _FLAGS += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}".strip()
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "Agg"
# Each of pytest's workers has a core: threads of matrix products would only wait for one another.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
# Tests that build the same program again take it from this folder, which pytest's workers share. It lives as long as
# pytest, unless the environment names one that is kept.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _COMPILED = tempfile.TemporaryDirectory(prefix="tsrec-jax-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ.get("TSREC_TESTS_COMPILED") or _COMPILED.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import pathlib
from collections.abc import Iterator

import pytest
from absl import flags

# Grain's worker processes read absl flags, which nobody parses under pytest.
flags.FLAGS.mark_as_parsed()

TESTS = pathlib.Path(__file__).resolve().parent
# Whole runs, studies, benchmarks and services: the tier `system`.
SYSTEM = (
    "benchmarks/*.py",
    "launch/test_pack.py",
    "pipeline/test_fusion.py",
    "pipeline/test_going_on.py",
    "pipeline/test_rl.py",
    "pipeline/test_*processes.py",
    "pipeline/test_stages.py",
    "pipeline/test_study.py",
    "pipeline/test_inputs.py",
    "serving/test_load.py",
    "serving/test_page.py",
    "serving/test_real_service.py",
    "serving/test_recommend_command.py",
    "test_document_benchmarks.py",
    "test_tutorial.py",
    "test_wheel.py",
    "training/test_survival.py",
)
# Files that compile, or take long for another reason, and are therefore in no tier smaller than the default.
COMPILING = (
    "baselines/test_real_data.py",
    "baselines/test_run.py",
    "baselines/test_sasrec.py",
    "data/test_new_task.py",
    "decoding/*.py",
    "launch/*.py",
    "models/*.py",
    "pipeline/*.py",
    "planning/test_accounting.py",
    "planning/test_search_flops.py",
    "planning/test_second_stage.py",
    "rl/*.py",
    "serving/test_coder.py",
    "serving/test_export*.py",
    "serving/test_fusion.py",
    "serving/test_recommender.py",
    "serving/test_connections.py",
    "serving/test_peft_folder.py",
    "serving/test_server.py",
    "sid/test_[acekir]*.py",
    "sid/test_levels.py",
    "test_cache.py",
    "test_imports.py",
    "test_programs.py",
    "training/*.py",
)
# Of the files above, those that compile nothing.
UNIT = (
    "launch/test_container.py",
    "models/test_config.py",
    "models/test_tokenizer.py",
    "pipeline/test_job.py",
    "pipeline/test_lock.py",
    "pipeline/test_published_cells.py",
    "pipeline/test_study_cell.py",
    "training/test_meter.py",
    "training/test_watch.py",
)
# The longest files, run first in this order, so that no worker is left with a long file at the end.
FIRST = (
    "test_document_benchmarks.py",
    "pipeline/test_study.py",
    "pipeline/test_processes.py",
    "launch/test_pack.py",
    "pipeline/test_stages.py",
    "pipeline/test_fusion.py",
    "pipeline/test_rl.py",
    "pipeline/test_going_on.py",
    "baselines/test_real_data.py",
    "training/test_survival.py",
    "serving/test_page.py",
    "serving/test_export.py",
    "serving/test_real_service.py",
    "serving/test_recommender.py",
    "serving/test_recommend_command.py",
    "benchmarks/test_decode.py",
    "decoding/test_prior.py",
    "pipeline/test_inputs.py",
    "pipeline/test_remote_processes.py",
    "test_wheel.py",
    "test_tutorial.py",
    "test_site.py",
    "training/test_loss.py",
    "training/test_loop.py",
    "training/test_meshes.py",
    "training/test_checkpoints.py",
    "training/test_dense_loss.py",
    "training/test_step.py",
)
_COMPILED_NOW: list[str] = []  # the programs compiled since the last test; kept with `-m unit` alone

SHARED_DATA = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data" / "amazon"


def pytest_configure(config: pytest.Config) -> None:
    """Refuses a list that names a missing file; with `-m unit`, records what is compiled."""
    if gone := [name for name in (*SYSTEM, *COMPILING, *UNIT, *FIRST) if not any(TESTS.glob(name))]:
        raise pytest.UsageError(f"tests/conftest.py lists what is not there: {', '.join(gone)}")
    if config.option.markexpr == "unit":
        import jax

        def listen(event: str, *_: object, **__: object) -> None:
            if event.endswith("backend_compile_duration"):
                _COMPILED_NOW.append(event)

        jax.monitoring.register_event_duration_secs_listener(listen)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives each test the marker of its tier, by its file; those with none are in the default tier.

    Long files come first.
    """
    for item in items:
        system, compiling, unit = (_listed(item.path, patterns) for patterns in (SYSTEM, COMPILING, UNIT))
        if system:
            item.add_marker("system")
        elif unit or not compiling:
            item.add_marker("unit")
    items.sort(key=lambda item: FIRST.index(name) if (name := _name(item.path)) in FIRST else len(FIRST))


def pytest_collection_finish() -> None:
    """Makes the garbage collector skip the millions of objects made by imports, which stay to the end."""
    gc.collect()
    gc.freeze()


def _listed(path: pathlib.Path, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(_name(path), pattern) for pattern in patterns)


def _name(path: pathlib.Path) -> str:
    return path.relative_to(TESTS).as_posix()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Checks that the tier `unit` compiles nothing."""
    yield
    compiled = len(_COMPILED_NOW)
    _COMPILED_NOW.clear()
    if compiled:
        pytest.fail(f"{item.path.name} compiles ({compiled} programs): list it under COMPILING in tests/conftest.py")


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
    from matplotlib.figure import Figure

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
            with pytest.MonkeyPatch.context() as patch:
                for name in ("savefig", "tight_layout"):  # tests/pipeline draws nothing
                    patch.setattr(Figure, name, inspect.unwrap(getattr(Figure, name)))
                assert main(["run", f"--config={config}", *SMALL, f"--workdir={workdir}"]) == 0
            assert (workdir / "plots" / "metrics.png").stat().st_size > 5000, "no drawing"
            made.touch()
    return workdir
