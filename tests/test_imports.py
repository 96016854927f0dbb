"""What a path does not use may be missing: a fresh process in which such packages cannot be imported."""

import json
import os
import subprocess
import sys

# Of the packages that `pip install .` brings, those that only some stages use.
ABSENT = ("array_record", "gguf", "grain", "importlib_resources", "matplotlib", "polars", "sklearn", "tensorboardX",
          "tensorflow_datasets")  # fmt: skip
CONFIGURED = ("ml_collections",)  # of the pipeline, which stages share
# What a service needs for none of its answers, and would wait for at each start.
SLOW = ("orbax", "scipy", "transformers")
SERVICE = ("tsrec_jax.serving.recommender",)
# Training and decoding; then the stages.
LIBRARY = ("tsrec_jax.decoding.generate", "tsrec_jax.training.loop")
STAGES = ("tsrec_jax.pipeline.stages", "tsrec_jax.pipeline.study")
PROGRAM = """
import importlib, json, pathlib, sys

absent, slow, service, configured, library, stages, folder = json.loads(sys.argv[1])
sys.modules.update(dict.fromkeys([*absent, *slow, *configured]))  # None there is what makes an import fail
for name in service:
    importlib.import_module(name)
for name in slow:
    del sys.modules[name]
for name in library:
    importlib.import_module(name)
from tsrec_jax.training.metrics_log import MetricsLog, read_metrics
for part in ("one", "two"):
    log = MetricsLog(pathlib.Path(folder, part))
    log.write(1, {"train/loss": 2.5})
    log.close()
for name in configured:
    del sys.modules[name]
for name in stages:
    importlib.import_module(name)
print(json.dumps([read_metrics(pathlib.Path(folder, "two")), [name for name in absent if sys.modules[name]]]))
"""


def test_a_path_runs_without_the_packages_it_does_not_use(request, tmp_path):
    facts = json.dumps([ABSENT, SLOW, SERVICE, CONFIGURED, LIBRARY, STAGES, str(tmp_path)])
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, facts]
    environment = os.environ | {"PYTHONPATH": str(request.config.rootpath)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [[{"step": 1, "train/loss": 2.5}], []]
    (said,) = (line for line in done.stderr.splitlines() if "tensorboardX" in line)
    assert "no TensorBoard events are written; metrics.jsonl holds the same" in said
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["metrics.jsonl"]
