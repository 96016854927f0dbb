import pytest

from tests.models.reference import CASES, tiny_facts
from tsrec_jax.errors import UserError
from tsrec_jax.models.config import Llama3Scaling, ModelConfig


@pytest.mark.parametrize("case", CASES)
def test_what_is_written_reads_back_as_the_same_config(case):
    config = ModelConfig.from_hf(tiny_facts(case))
    assert ModelConfig.from_hf(config.to_hf()) == config


def test_both_spellings_of_rope_settings_are_read():
    scaling = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    facts = tiny_facts("llama_tied")
    del facts["rope_parameters"]
    older = ModelConfig.from_hf(facts | {"rope_theta": 500000.0, "rope_scaling": scaling})
    newer = ModelConfig.from_hf(facts | {"rope_parameters": {**scaling, "rope_theta": 500000.0}})
    assert older == newer
    assert older.rope_theta == 500000.0
    assert older.rope_scaling == Llama3Scaling(32.0, 1.0, 4.0, 8192)


def test_local_layers_are_read_in_both_spellings_and_written_in_both():
    facts = tiny_facts("gemma3_tied")
    newer = ModelConfig.from_hf(facts)
    del facts["rope_parameters"], facts["layer_types"]
    linear = {"rope_type": "linear", "factor": 2.0}
    facts |= {"rope_theta": 73.0, "rope_scaling": linear, "rope_local_base_freq": 7.0, "sliding_window_pattern": 2}
    assert ModelConfig.from_hf(facts) == newer
    assert (newer.local_L, newer.window, newer.tied) == ((True, False), 24, True)
    written = newer.to_hf()
    older = {key: value for key, value in written.items() if key != "rope_parameters"}
    assert ModelConfig.from_hf(written) == ModelConfig.from_hf(older) == newer
    with pytest.raises(UserError, match="layer_types"):
        ModelConfig.from_hf(tiny_facts("gemma3_tied") | {"layer_types": ["full_attention"]})


def test_absent_sizes_take_the_family_s_defaults():
    facts = {key: value for key, value in tiny_facts("qwen2_tied").items() if key != "num_key_value_heads"}
    config = ModelConfig.from_hf(facts)
    assert (config.num_kv_heads, config.head_dim) == (4, 4)
    assert config.qkv_bias and not config.qk_norm
    facts = {key: value for key, value in tiny_facts("qwen3_tied").items() if key != "head_dim"}
    assert ModelConfig.from_hf(facts).head_dim == 128


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "mamba"}, "mamba"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "rope_parameters": None}, "yarn"),
        ({"rope_scaling": {"type": "llama3", "factor": 4.0}, "rope_parameters": None}, "low_freq_factor"),
    ],
)
def test_a_model_that_would_be_computed_wrongly_is_refused(change, named):
    with pytest.raises(UserError, match=f"somewhere/config.json.*{named}"):
        ModelConfig.from_hf(tiny_facts("llama_tied") | change, "somewhere/config.json")


def test_a_qwen2_with_a_head_size_of_its_own_is_refused():
    with pytest.raises(UserError, match="head_dim=6"):
        ModelConfig.from_hf(tiny_facts("qwen2_tied") | {"head_dim": 6})


def test_a_missing_key_is_named():
    facts = tiny_facts("llama_tied")
    del facts["intermediate_size"]
    with pytest.raises(UserError, match="'intermediate_size' is missing"):
        ModelConfig.from_hf(facts)


def test_several_ends_are_kept_as_a_list_and_make_no_shape_unhashable():
    config = ModelConfig.from_hf(tiny_facts("llama_tied") | {"eos_token_id": [2, 0]})
    assert hash(config) == hash(ModelConfig.from_hf(config.to_hf()))
    assert config.to_hf()["eos_token_id"] == [2, 0]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hidden_size": "16"}, "hidden_size='16' is not a whole number"),
        ({"num_hidden_layers": True}, "num_hidden_layers=True"),
        ({"vocab_size": 0}, "vocab_size=0"),
        ({"intermediate_size": 24.0}, "intermediate_size=24.0"),
        ({"num_key_value_heads": 3}, "num_attention_heads=4 is no multiple of num_key_value_heads=3"),
        ({"rms_norm_eps": "tiny"}, "rms_norm_eps|tiny"),
        ({"rope_parameters": [1]}, "not the settings of a model"),
        ({"eos_token_id": "</s>"}, "eos_token_id='</s>'"),
        ({"eos_token_id": [2, None]}, r"eos_token_id=\[2, None\]"),
        ({"pad_token_id": []}, r"pad_token_id=\[\]"),
    ],
)
def test_sizes_and_ids_that_no_model_can_have_are_refused(change, named):
    with pytest.raises(UserError, match=f"somewhere/config.json.*({named})"):
        ModelConfig.from_hf(tiny_facts("llama_tied") | change, "somewhere/config.json")


def test_a_config_that_holds_no_settings_is_refused():
    with pytest.raises(UserError, match=r"config\.json: holds list"):
        ModelConfig.from_hf([], "config.json")


@pytest.mark.parametrize("stated", [{}, {"sliding_window": 8}])
def test_a_mistral_with_a_sliding_window_is_refused(stated):
    """Which one without the key has, in transformers too; an export says that it has none."""
    facts = tiny_facts("mistral_untied")
    assert ModelConfig.from_hf(facts).to_hf()["sliding_window"] is None
    del facts["sliding_window"]
    with pytest.raises(UserError, match=r"sliding_window=(4096|8) is not supported"):
        ModelConfig.from_hf(facts | stated)
