"""`python -m tsrec_jax VERB ...`."""

from tsrec_jax.main import run

run()
