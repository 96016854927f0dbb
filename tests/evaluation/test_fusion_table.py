"""The section on fusions of a report."""

from tsrec_jax.evaluation.fusion_table import fusion_section

FIGURES = {"HR@10": 0.25, "NDCG@10": 0.125}
FACTS = {"rows": 20, "listed": 0.5, "cross-fitted": FIGURES}


def test_a_weight_of_the_model_at_its_bound_is_said_in_words():
    heavy = {**FACTS, "model alone": FIGURES, "weight of the model": 6e-4, "model at its bound": False}
    light = heavy | {"weight of the model": 0.02, "model at its bound": True}
    said = fusion_section([("heavy", heavy), ("light", light), ("parts", FACTS)])
    assert "lower bound in light**" in said
    assert "| light  |   20 |        0.5000 |" in said
    assert "| parts  |   20 |        0.5000 |                n/a |" in said
    assert "lower bound" not in fusion_section([("heavy", heavy), ("parts", FACTS)])


def test_one_part_alone_has_no_figures_and_no_fusion_no_section():
    assert "| hybrid |   20 |           n/a |" in fusion_section([("hybrid", {"rows": 20, "alone": FIGURES})])
    assert fusion_section([]) == ""
