"""The transformer, Hugging Face weights in and out, and the vocabulary extension."""

from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.hf import load_hf, save_hf
from tsrec_jax.models.inference import InferenceModel
from tsrec_jax.models.tokenizer import load_tokenizer

__all__ = ["Decoder", "InferenceModel", "ModelConfig", "load_hf", "load_tokenizer", "save_hf"]
