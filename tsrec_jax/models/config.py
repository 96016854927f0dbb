"""The shape of a decoder, read from and written to a Hugging Face `config.json` in both spellings of rope settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tsrec_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Family:
    """What sets one family of decoders apart from the others.

    Attributes:
      architecture: the class of `transformers` that runs it.
      qkv_bias: biases on q, k and v.
      qk_norm: RMSNorm on each head of q and k.
      head_dim: used if a config states none; None: d_model / heads.
      states_head_dim: whether a config may state a head_dim; if not, it is d_model / heads.
      sliding_window: used if a config states none; a model with a window is refused, whatever its size. None: a
        config's `use_sliding_window` decides.
      local_layers: some layers see only a window, and have their own rotary base.
      norm_offset: RMSNorms multiply by 1 + their weight.
      out_norms: there are RMSNorms on what attention and MLP add.
      activation, activation_key: HF's name for the activation of the MLP's gate, and the key that states it there.
      scaled_embedding: rows of the input table are multiplied by the square root of d_model.
      tied: used if a config does not state it.
    """

    architecture: str
    qkv_bias: bool = False
    qk_norm: bool = False
    head_dim: int | None = None
    states_head_dim: bool = True
    sliding_window: int | None = None
    local_layers: bool = False
    norm_offset: bool = False
    out_norms: bool = False
    activation: str = "silu"
    activation_key: str = "hidden_act"
    scaled_embedding: bool = False
    tied: bool = False


FAMILIES = {  # by the `model_type` of a config.json
    "gemma3_text": Family(
        "Gemma3ForCausalLM",
        qk_norm=True,
        head_dim=256,
        local_layers=True,
        norm_offset=True,
        out_norms=True,
        activation="gelu_pytorch_tanh",
        activation_key="hidden_activation",
        scaled_embedding=True,
        tied=True,
    ),
    "llama": Family("LlamaForCausalLM"),
    "mistral": Family("MistralForCausalLM", sliding_window=4096),
    "qwen2": Family("Qwen2ForCausalLM", qkv_bias=True, states_head_dim=False),
    "qwen3": Family("Qwen3ForCausalLM", qk_norm=True, head_dim=128),
}

LAYER_TYPES = {False: "full_attention", True: "sliding_attention"}  # in HF, by whether a layer is local
_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """Frequency scaling of Llama 3.1 and later (`rope_type: llama3`); `factor` is a ratio, the rest as in HF."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes and switches of one decoder. Letters: V rows of the table, D, F, L, N, K, H as in `decoder`.

    Attributes:
      family: a name in FAMILIES.
      vocab_rows: rows of the vocabulary table (V), padding rows included.
      d_model, d_mlp, num_layers, num_heads, num_kv_heads, head_dim: D, F, L, N, K, H.
      rope_theta: base of the rotary frequencies.
      rms_eps: epsilon of RMSNorm.
      tied: the output table is the embedding itself.
      qkv_bias, qk_norm: as the family has them.
      rope_scaling: llama3 scaling, the factor of a linear scaling, or None.
      window: positions that a local layer sees, itself included. Longer rows are refused: within the window it sees
        everything.
      local_L: for each layer of the checkpoint, whether it is a local one; empty: none is.
      local_theta: base of the rotary frequencies of local layers.
      query_scalar: queries are divided by its square root; None: by that of H.
      max_positions: longest sequence the model was made for.
      special_ids: bos/eos/pad ids as the checkpoint states them; several ids for one role are a list in the file, but a
        tuple here, since this shape is a static argument of compiled functions.
    """

    family: str
    vocab_rows: int
    d_model: int
    d_mlp: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope_theta: float
    rms_eps: float
    tied: bool
    qkv_bias: bool = False
    qk_norm: bool = False
    rope_scaling: Llama3Scaling | float | None = None
    window: int | None = None
    local_L: tuple[bool, ...] = ()
    local_theta: float = 10000.0
    query_scalar: int | None = None
    max_positions: int = 2048
    special_ids: tuple[tuple[str, Any], ...] = ()

    @property
    def kind(self) -> Family:
        """What sets its family apart."""
        return FAMILIES[self.family]

    def is_local(self, layer: int) -> bool:
        """Whether a layer is a local one."""
        return bool(self.local_L) and self.local_L[layer]

    @property
    def query_scale(self) -> float:
        """What queries are multiplied by, in addition to attention's division by the square root of H."""
        return 1.0 if self.query_scalar is None else (self.head_dim / self.query_scalar) ** 0.5

    @classmethod
    def from_hf(cls, facts: Mapping[str, Any], source: str = "config.json") -> ModelConfig:
        """Reads the contents of a `config.json`.

        Raises:
          UserError: another architecture, an impossible size, or a switch that this decoder does not implement; the
            message names key and value.
        """
        if not isinstance(facts, Mapping):
            raise UserError(f"{source}: holds {type(facts).__name__}, not the settings of a model")
        name = facts.get("model_type")
        if not isinstance(name, str) or name not in FAMILIES:
            raise UserError(f"{source}: model_type {name!r} is not one of {', '.join(FAMILIES)}")
        family = FAMILIES[name]
        try:
            _check_kinds(facts, source)
            heads, d_model = facts["num_attention_heads"], facts["hidden_size"]
            rope = {**(facts.get("rope_scaling") or {}), **(facts.get("rope_parameters") or {})}
            local: dict[str, Any] = {}
            if family.local_layers:
                rope, local = _rope_of_both(facts), _local_layers(facts)
            config = cls(
                family=name,
                vocab_rows=facts["vocab_size"],
                d_model=d_model,
                d_mlp=facts["intermediate_size"],
                num_layers=facts["num_hidden_layers"],
                num_heads=heads,
                num_kv_heads=facts.get("num_key_value_heads") or heads,
                head_dim=facts.get("head_dim") or family.head_dim or d_model // heads,
                rope_theta=float(facts.get("rope_theta") or rope.get("rope_theta") or 10000.0),
                rms_eps=float(facts.get("rms_norm_eps", 1e-6)),
                tied=bool(facts.get("tie_word_embeddings", family.tied)),
                qkv_bias=family.qkv_bias,
                qk_norm=family.qk_norm,
                rope_scaling=_rope_scaling(rope, source),
                max_positions=facts.get("max_position_embeddings") or 2048,
                special_ids=special_ids(facts),
                **local,
            )
        except KeyError as error:
            raise UserError(f"{source}: key {error.args[0]!r} is missing") from None
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise UserError(f"{source}: not the settings of a model ({error})") from None
        _refuse_unsupported(facts, name, source)
        return config

    def to_hf(self) -> dict[str, Any]:
        """The contents of a `config.json` that `transformers` (4 and 5) reads as this model."""
        facts: dict[str, Any] = {
            "architectures": [self.kind.architecture],
            "model_type": self.family,
            "vocab_size": self.vocab_rows,
            "hidden_size": self.d_model,
            "intermediate_size": self.d_mlp,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            self.kind.activation_key: self.kind.activation,
            "rope_theta": self.rope_theta,
            "rms_norm_eps": self.rms_eps,
            "tie_word_embeddings": self.tied,
            "max_position_embeddings": self.max_positions,
            "initializer_range": 0.02,
            "use_cache": True,
            **{key: list(value) if isinstance(value, tuple) else value for key, value in self.special_ids},
        }
        rope: dict[str, Any] = {"rope_type": "default"}
        if isinstance(self.rope_scaling, float):
            rope = facts["rope_scaling"] = {"rope_type": "linear", "factor": self.rope_scaling}
        elif self.rope_scaling is not None:
            rope = {
                "rope_type": "llama3",
                "factor": self.rope_scaling.factor,
                "low_freq_factor": self.rope_scaling.low_freq_factor,
                "high_freq_factor": self.rope_scaling.high_freq_factor,
                "original_max_position_embeddings": self.rope_scaling.original_max_positions,
            }
            facts["rope_scaling"] = rope
        facts["rope_parameters"] = {**rope, "rope_theta": self.rope_theta}
        if self.kind.local_layers:
            facts |= {
                "sliding_window": self.window,
                "layer_types": [LAYER_TYPES[local] for local in self.local_L[: self.num_layers]],
                "query_pre_attn_scalar": self.query_scalar,
                "rope_local_base_freq": self.local_theta,
                "rope_parameters": {
                    LAYER_TYPES[False]: facts["rope_parameters"],
                    LAYER_TYPES[True]: {"rope_type": "default", "rope_theta": self.local_theta},
                },
            }
        if not self.kind.states_head_dim:
            del facts["head_dim"]
        if self.kind.sliding_window is not None:
            facts["sliding_window"] = None
        return facts


def special_ids(facts: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """The bos, eos and pad ids that a mapping states, as `ModelConfig.special_ids` holds them."""
    stated = {key: facts[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if key in facts}
    return tuple((key, tuple(value) if isinstance(value, list) else value) for key, value in stated.items())


def _check_kinds(facts: Mapping[str, Any], source: str) -> None:
    """Refuses stated sizes that are not whole numbers from 1, and stated ids that are not ids."""
    for key in _SIZES:
        value = facts.get(key)
        if value is None and key in ("num_key_value_heads", "head_dim", "max_position_embeddings"):
            continue
        if key in facts and (type(value) is not int or value < 1):
            raise UserError(f"{source}: {key}={value!r} is not a whole number from 1")
    heads, kv_heads = facts["num_attention_heads"], facts.get("num_key_value_heads") or facts["num_attention_heads"]
    if heads % kv_heads:
        raise UserError(f"{source}: num_attention_heads={heads} is no multiple of num_key_value_heads={kv_heads}")
    for key, value in special_ids(facts):
        ids = value if isinstance(value, tuple) else (value,)
        if value is not None and not (ids and all(type(each) is int for each in ids)):
            raise UserError(f"{source}: {key}={facts[key]!r} is neither an id nor a list of ids")


def _rope_of_both(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The rope settings of global layers, in a family that also has local ones."""
    stated = (facts.get("rope_parameters") or {}).get(LAYER_TYPES[False]) or {}
    return {"rope_theta": facts.get("rope_theta") or 1e6, **(facts.get("rope_scaling") or {}), **stated}


def _local_layers(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `ModelConfig` that say which layers are local and how, with Gemma 3's defaults."""
    pattern = facts.get("sliding_window_pattern") or 6  # every sixth layer is a global one
    kinds = facts.get("layer_types") or [
        LAYER_TYPES[bool((layer + 1) % pattern)] for layer in range(facts["num_hidden_layers"])
    ]
    if len(kinds) != facts["num_hidden_layers"] or not set(kinds) <= set(LAYER_TYPES.values()):
        raise ValueError(f"layer_types={kinds!r} must name {' or '.join(LAYER_TYPES.values())} for each layer")
    stated = (facts.get("rope_parameters") or {}).get(LAYER_TYPES[True]) or {}
    return {
        "window": int(facts.get("sliding_window") or 4096),
        "local_L": tuple(kind == LAYER_TYPES[True] for kind in kinds),
        "local_theta": float(stated.get("rope_theta") or facts.get("rope_local_base_freq") or 10000.0),
        "query_scalar": int(facts.get("query_pre_attn_scalar") or 256),
    }


def _rope_scaling(rope: Mapping[str, Any], source: str) -> Llama3Scaling | float | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind == "linear":
        return float(rope["factor"])
    if kind != "llama3":
        raise UserError(f"{source}: rope_type {kind!r} is not supported; supported are default, linear and llama3")
    return Llama3Scaling(
        float(rope["factor"]),
        float(rope["low_freq_factor"]),
        float(rope["high_freq_factor"]),
        int(rope["original_max_position_embeddings"]),
    )


def _refuse_unsupported(facts: Mapping[str, Any], family: str, source: str) -> None:
    """Refuses switches that change the computation and that no released model of a supported family sets."""
    activation = FAMILIES[family].activation
    wanted = {
        FAMILIES[family].activation_key: ("silu", "swish") if activation == "silu" else (activation,),
        "attn_logit_softcapping": (None,),
        "final_logit_softcapping": (None,),
        "use_bidirectional_attention": (False, None),
        "use_sliding_window": (False, None),
        "mlp_bias": (False, None),
        "attention_bias": (True, False, None) if FAMILIES[family].qkv_bias else (False, None),
    }
    for key, allowed in wanted.items():
        if key in facts and facts[key] not in allowed:
            raise UserError(f"{source}: {key}={facts[key]!r} is not supported for {family}")
    window = FAMILIES[family].sliding_window and facts.get("sliding_window", FAMILIES[family].sliding_window)
    if window is not None:
        raise UserError(
            f"{source}: sliding_window={window!r} is not supported; of {family}, models whose config states null are"
        )
    stated, implied = facts.get("head_dim"), facts["hidden_size"] // facts["num_attention_heads"]
    if not FAMILIES[family].states_head_dim and stated not in (None, implied):
        raise UserError(f"{source}: head_dim={stated} differs from hidden_size / heads, which {family} does not allow")
