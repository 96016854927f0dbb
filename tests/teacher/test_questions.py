"""Questions: which items a prompt shows, beside which others, and what it never says."""

import dataclasses

from tsrec_jax.data.catalogue import Catalogue, Item
from tsrec_jax.teacher.groups import groups_of
from tsrec_jax.teacher.questions import evenly_spaced, make_questions
from tsrec_jax.teacher.settings import DescribeSettings


def questions_of(catalogue, items_per_token=40, description_chars=300, unit="token"):
    settings = DescribeSettings(items_per_token=items_per_token, description_chars=description_chars)
    groups = groups_of(catalogue, unit, catalogue.num_levels)
    return {question.name: question for question in make_questions(catalogue, groups, settings)}


def test_every_token_has_one_question_in_catalogue_order(catalogue):
    found = questions_of(catalogue)
    assert tuple(found) == catalogue.tokens
    assert [(question.group.level, len(question.group.items)) for question in found.values()] == [
        (0, 3),
        (0, 3),
        (1, 3),
        (1, 3),
    ]


def test_a_sample_is_evenly_spaced():
    assert evenly_spaced(range(5), 5) == (0, 1, 2, 3, 4)
    assert evenly_spaced(range(10), 5) == (1, 3, 5, 7, 9)
    assert evenly_spaced(range(10), 3) == (1, 5, 8)
    assert evenly_spaced((), 3) == ()


def test_the_sample_of_a_large_cluster_does_not_depend_on_the_order_of_the_file(catalogue):
    turned = Catalogue(catalogue.items[::-1], catalogue.sids[::-1])
    for token, question in questions_of(catalogue, 2).items():
        other = questions_of(turned, 2)[token]
        assert len(question.sample) == 2
        assert question.prompt == other.prompt
        assert [catalogue.items[i] for i in question.sample] == [turned.items[i] for i in other.sample]


def test_a_deep_token_is_shown_family_by_family_beside_other_tokens(catalogue):
    question = questions_of(catalogue)["<b_1>"]
    shown = [
        ([catalogue.items[i].id for i in family.items], [catalogue.items[i].id for i in family.neighbours])
        for family in question.families
    ]
    assert shown == [(["p1", "p5"], ["p2"]), (["p3"], ["p4", "p6"])]
    in_group, not_in_group = question.prompt.index("Steel pipe clamp"), question.prompt.index("Wooden bar clamp")
    assert question.prompt.index("Family 2, in the group") < in_group
    assert in_group < question.prompt.index("Family 2, not in the group") < not_in_group


def test_a_family_without_neighbours_is_widened_by_a_level():
    items = tuple(Item(f"p{n}", f"thing {n}") for n in range(4))
    sids = (("<a_1>", "<b_1>", "<c_1>"), ("<a_1>", "<b_2>", "<c_2>"), ("<a_2>", "<b_3>", "<c_1>"))
    catalogue = Catalogue(items, (*sids, ("<a_2>", "<b_3>", "<c_3>")))
    families = questions_of(catalogue)["<c_1>"].families
    assert [family.neighbours for family in families] == [(1,), (3,)]
    assert [family.neighbours for family in questions_of(catalogue)["<b_3>"].families] == [()]


def test_a_path_is_shown_by_the_items_below_it_beside_those_of_its_siblings(catalogue):
    found = questions_of(catalogue, unit="path")
    assert list(found) == ["<a_1>", "<a_2>", "<a_1><b_1>", "<a_1><b_2>", "<a_2><b_1>", "<a_2><b_2>"]
    (family,) = found["<a_1><b_1>"].families
    assert [catalogue.items[i].id for i in family.items] == ["p1", "p5"]
    assert [catalogue.items[i].id for i in family.neighbours] == ["p2"]
    (family,) = found["<a_2><b_1>"].families
    assert [catalogue.items[i].id for i in family.neighbours] == ["p4", "p6"]
    assert found["<a_1>"].prompt == questions_of(catalogue)["<a_1>"].prompt
    assert "all 2 of its products" in found["<a_1><b_1>"].prompt
    assert not any(token in question.prompt for question in found.values() for token in catalogue.tokens)


def test_the_prompt_says_how_many_of_how_many_and_shows_title_brand_category_and_a_shortened_description(catalogue):
    prompt = questions_of(catalogue, 2, description_chars=12)["<a_1>"].prompt
    assert "2 of its 3 products" in prompt
    assert "- Steel hand drill | brand: Acme | A drill made ..." in prompt
    assert "all 3 of its products" in questions_of(catalogue)["<a_1>"].prompt
    assert "category: Tools" in questions_of(catalogue)["<a_1>"].prompt
    assert "about 20 entries" in prompt
    assert '{"description": "...", "keywords": ["...", "..."]}' in prompt


def test_no_prompt_names_a_token(catalogue):
    for question in questions_of(catalogue).values():
        assert not any(token in question.prompt for token in catalogue.tokens)


def test_line_breaks_of_a_title_do_not_break_the_list(catalogue):
    items = (dataclasses.replace(catalogue.items[0], title="Steel\nhand drill"), *catalogue.items[1:])
    assert questions_of(Catalogue(items, catalogue.sids))["<a_1>"].prompt == questions_of(catalogue)["<a_1>"].prompt
