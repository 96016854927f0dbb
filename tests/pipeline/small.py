"""What makes a run or a study of the embedded shop as small as a test can bear."""

SMALL = [
    "--config.shop.num_items=70",
    "--config.shop.num_users=40",
    "--config.pretrain.max_steps=2",
    "--config.pretrain.batch_tokens=1024",
    "--config.train.max_steps=4",
    "--config.train.batch_tokens=2048",
    "--config.train.log_every=1",
    "--config.train.validations=2",
    "--config.train.valid_beam_rows=8",
    "--config.eval.max_rows=16",
    "--config.eval.batch_size=16",
    "--config.eval.bootstrap=20",
]
