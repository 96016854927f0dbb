"""The paper's recipe: Qwen2.5-1.5B on a full Amazon folder, on a TPU slice or a few GPUs.

    bash launch/local.sh --only-install
    python -m tsrec_jax run --config=configs/amazon_qwen2_5_1_5b.py \
        --config.dataset.path=data/Industrial_and_Scientific --workdir=runs/qwen

Recipe (method facts: TS-Rec, arXiv 2602.22632): AdamW, 3e-4, linear decay, 20 warm-up steps, clip 1.0, at most 10
epochs, early stop with patience 3 on the validation next-SID loss checked every 5 % of the steps, bfloat16, seed 42.
The global batch of 1,024 rows of about 100 tokens is 131,072 packed token slots here. Expected outcome: HR@10 of
independent SFT retrains on the full Industrial data lies between .134 and .154; not yet run by this project on that
hardware and data.
"""

from ml_collections import ConfigDict

from tsrec_jax.settings import paper_config


def get_config() -> ConfigDict:
    """Qwen2.5-1.5B, bfloat16 compute, parameters sharded over fsdp."""
    config = paper_config()
    config.model.path = "Qwen/Qwen2.5-1.5B"
    config.model.dtype = "bfloat16"
    config.index.sizes = (256, 256, 256)  # as in the published SIDs; () fits them to a catalogue of another size
    config.mesh.data = 1
    config.mesh.fsdp = -1
    config.train.accumulation = 4
    config.train.rows_per_group = 4
    config.train.loss_chunk = 128
    config.eval.beams = 50
    config.eval.batch_size = 64
    return config
