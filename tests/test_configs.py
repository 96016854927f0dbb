"""The experiment files under configs/ keep what their documents say of them."""

import runpy

import pytest

from tsrec_jax.baselines.names import BASELINES
from tsrec_jax.configuration import flat, study_arm_config, validate

RECIPE = "tsrec-centred-wide-walks"
# Where texts come without SIDs, how often a run saves, and what a study alone or a run alone has.
OWN = {"index.max_tokens", "train.checkpoint_every"}
SECTIONS = ("study", "run")


@pytest.fixture
def experiment(request):
    def read(name):
        return runpy.run_path(str(request.config.rootpath / "configs" / name))["get_config"]()

    return read


def differing(one, other):
    one, other = (flat(config.to_dict()) for config in (one, other))
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}


def test_the_real_data_run_is_the_arm_of_the_study_that_recommends_best_by_itself(experiment):
    different = differing(study_arm_config(experiment("studies/ablation.py"), RECIPE), experiment("amazon_smollm2.py"))
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
        different = differing(study_arm_config(office, name), study_arm_config(ablation, name))
        assert {key.split(".")[0] for key in different} <= {"study"}, name
