"""The experiment files under configs/ keep what their documents say of them."""

import runpy

import pytest

from tsrec_jax.baselines.run import BASELINES
from tsrec_jax.configuration import study_arm_config, validate
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


def test_every_experiment_can_be_made(request, experiment):
    folder = request.config.rootpath / "configs"
    names = [str(path.relative_to(folder)) for path in folder.rglob("*.py")]
    assert {"quickstart.py", "studies/office.py"} <= set(names)
    for name in names:
        config = experiment(name)
        validate(config)  # which looks at each arm and comparison of a study
        assert set(config.study.baselines) <= set(BASELINES), name


def test_what_is_run_on_office_is_arms_of_the_ablation(experiment):
    ablation, office = experiment("studies/ablation.py"), experiment("studies/office.py")
    ablation.train.held_out, ablation.eval.split = 0.1, "valid"
    for name in office.study.arms:
        mine, theirs = (flat(study_arm_config(config, name).to_dict(), "") for config in (office, ablation))
        different = {key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)}
        assert {key.split(".")[0] for key in different} <= {"study"}, name
