"""The experiment files under configs/ keep what their documents say of them."""

import re
import runpy

import pytest

from tsrec_jax.baselines.names import BASELINES
from tsrec_jax.data.target_ranks import SHOWN, metric_names
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.small_lm import lm_shape
from tsrec_jax.planning.accounting import parameter_count
from tsrec_jax.settings import default_config, flat, paper_config, settings_of

RECIPE = "tsrec-centred-wide-walks"
# Where texts come without SIDs, how often a run saves, and what a study alone or a run alone has.
OWN = {"index.max_tokens", "train.checkpoint_every"}
SECTIONS = ("study", "run", "given")


@pytest.fixture
def experiment(request):
    def read(name):
        return settings_of(runpy.run_path(str(request.config.rootpath / "configs" / name))["get_config"]())

    return read


def differing(one, other):
    one, other = (flat(settings) for settings in (one, other))
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}


def test_the_real_data_run_is_the_arm_of_the_study_that_recommends_best_by_itself(experiment):
    different = differing(experiment("studies/ablation.py").arm(RECIPE), experiment("amazon_smollm2.py"))
    assert {key for key in different if key.split(".")[0] not in SECTIONS} == OWN


def test_every_experiment_can_be_made(request, experiment):
    folder = request.config.rootpath / "configs"
    names = [str(path.relative_to(folder)) for path in folder.rglob("*.py")]
    assert {"quickstart.py", "studies/office.py"} <= set(names)
    for name in names:
        config = experiment(name)  # which looks at each arm and comparison of a study
        assert set(config.study.baselines) <= set(BASELINES), name


def test_what_is_run_on_office_is_arms_of_the_ablation(experiment):
    ablation, office = experiment("studies/ablation.py"), experiment("studies/office.py")
    ablation = ablation.changed({"train": {"held_out": 0.1}, "eval": {"split": "valid"}})
    for name in office.study.arms:
        different = differing(office.arm(name), ablation.arm(name))
        assert {key.split(".")[0] for key in different} <= {"study", "given"}, name


def test_the_study_of_the_second_stage_shows_what_it_is_accepted_by(experiment):
    """Its control has nothing but the target's loss, it compares what must gain nothing as well as what must gain,
    and its lists are long enough for sharpening to be seen."""
    study = experiment("studies/rl.py")
    control = study.arm("sft").rl
    assert (control.objective, control.kl) == ("sft", 0)
    second = {name: study.arm(name).rl for name in study.study.arms if name != "trained"}
    assert {(rl.steps, rl.learning_rate, rl.prompts) for rl in second.values()} == {
        (control.steps, control.learning_rate, control.prompts)
    }
    assert not study.arm("trained").rl.steps and second["random-rewards"].reward == "random"
    assert {("random-rewards", "trained"), ("sft", "trained"), ("utility", "utility-no-kl"), ("utility-no-kl", "sft"),
            ("utility-fusion", "utility")} <= set(study.study.pairs("comparisons"))  # fmt: skip
    assert differing(study.arm("utility"), study.arm("utility-no-kl")) == {"rl.kl", "given.rl.kl"}
    assert "HR@50" in metric_names(study.eval.beams) and "HR@50" in SHOWN


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("amazon_smollm2", default_config),
        ("industrial", default_config),
        ("beauty", default_config),
        ("amazon_qwen2_5_1_5b", paper_config),
    ],
)
def test_an_experiment_on_real_data_changes_few_settings(request, experiment, name, start):
    source = (request.config.rootpath / "configs" / f"{name}.py").read_text()
    assert f"config = {start.__name__}()" in source
    assert 0 < len(re.findall(r"^    config\.\S+ = ", source, re.MULTILINE)) <= 10
    assert len({key for key in differing(experiment(f"{name}.py"), settings_of(start())) if key[:5] != "given"}) <= 10


def test_the_models_that_real_data_pretrain_have_three_to_eight_million_parameters(experiment):
    for name in ("industrial", "beauty"):
        wanted = experiment(f"{name}.py").pretrain
        shape = ModelConfig.from_hf(lm_shape(wanted.vocab_size, wanted.hidden_size, wanted.num_layers))
        assert 3e6 < parameter_count(shape) < 8e6, name
        assert not wanted.max_steps and wanted.held_out, name
