import dataclasses

import numpy as np

from tests.baselines.catalogues import catalogue_of, quiet, rows_of
from tsrec_jax.baselines.ranking import rank_sids
from tsrec_jax.baselines.text import fit_text
from tsrec_jax.text.likeness import text_features

CATALOGUE = catalogue_of(["red drill", "red saw", "blue saw", "blue drill", "red zebra", "wombat"])


def test_scores_are_the_mean_cosine_with_the_history_newest_first():
    fitted = fit_text(CATALOGUE, rows_of(), rows_of(((0, 1), 3)), 0, quiet)
    features = text_features(CATALOGUE.items).toarray()
    decay = fitted.history_decay
    mean = (decay * features[0] + features[1]) / (1 + decay)
    scores_BI = dataclasses.replace(fitted, seen=None).scores([(0, 1)])
    np.testing.assert_allclose(scores_BI, (mean @ features.T)[None], rtol=1e-5, atol=1e-6)


def test_the_decay_is_chosen_on_selection():
    old = fit_text(CATALOGUE, rows_of(), rows_of(((2, 2, 4), 2)), 0, quiet)
    new = fit_text(CATALOGUE, rows_of(), rows_of(((2, 2, 4), 4)), 0, quiet)
    assert old.history_decay > new.history_decay
    assert rank_sids(new.scores([(2, 2, 4)]), CATALOGUE, 1) == [[CATALOGUE.sid(4)]]
