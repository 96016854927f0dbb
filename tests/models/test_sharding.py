import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType

from tests.models.reference import tiny_facts
from tsrec_jax.errors import UserError
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.layers import parameter_shapes
from tsrec_jax.models.sharding import RULES, ShardingRules, check_fits, constrain, make_mesh, named_sharding


def test_the_mesh_has_auto_axes_and_fills_the_open_size():
    mesh = make_mesh(-1, 2, 2)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert set(mesh.axis_types) == {AxisType.Auto}


def test_rules_turn_logical_axes_into_mesh_axes():
    assert RULES.spec("vocabulary", None) == jax.P(("fsdp", "tensor"), None)
    assert RULES.spec("embed", "mlp") == jax.P("fsdp", "tensor")
    assert RULES.spec("batch", None) == jax.P(("data", "fsdp"), None)
    assert ShardingRules(embed=None).spec("embed", "mlp") == jax.P(None, "tensor")
    assert named_sharding(None, "embed") is None


def test_constrain_splits_under_a_mesh_and_does_nothing_without():
    x = jnp.zeros((8, 4))
    assert constrain(x, "batch", None) is x
    with jax.set_mesh(make_mesh(4, 2, 1)):
        split = jax.jit(lambda x: constrain(x, "batch", None))(x)
    assert split.sharding.shard_shape(split.shape) == (1, 4)


def test_a_mesh_that_divides_every_axis_is_accepted():
    check_fits(parameter_shapes(ModelConfig.from_hf(tiny_facts("qwen2_tied"))), make_mesh(2, 2, 2))


def test_every_axis_that_does_not_divide_is_named():
    shapes = parameter_shapes(ModelConfig.from_hf(tiny_facts("qwen2_untied") | {"vocab_size": 41}))
    with pytest.raises(UserError, match=r"heads of k \(1\) by tensor=2") as raised:
        check_fits(shapes, make_mesh(2, 2, 2))
    assert "vocabulary of embedding (41) by fsdpxtensor=4" in str(raised.value)
    assert "heads of q " not in str(raised.value)
