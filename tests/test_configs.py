"""The experiment files under configs/ keep what their documents say of them."""

import runpy

import pytest

from tsrec_jax.configuration import study_arm_config
from tsrec_jax.pipeline.run import flat

RECIPE = "tsrec-centred-wide-walks"
# Where texts come without SIDs, how often a run saves, and what a study alone or a run alone has.
OWN = {"index.max_tokens", "train.checkpoint_every"}
SECTIONS = ("study", "run")


@pytest.fixture
def experiment(request):
    def read(name):
        return runpy.run_path(str(request.config.rootpath / "configs" / name))["get_config"]()

    return read


def test_the_real_data_run_is_the_arm_of_the_study_that_recommends_best_by_itself(experiment):
    arm = flat(study_arm_config(experiment("studies/ablation.py"), RECIPE).to_dict(), "")
    run = flat(experiment("amazon_smollm2.py").to_dict(), "")
    different = {key for key in arm.keys() | run.keys() if arm.get(key) != run.get(key)}
    assert {key for key in different if key.split(".")[0] not in SECTIONS} == OWN
