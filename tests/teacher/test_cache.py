"""The answers on disk: they outlive a kill, and a half line costs only itself."""

import concurrent.futures

from tsrec_jax.teacher.backends.protocol import Reply
from tsrec_jax.teacher.cache import AnswerCache, answer_key


def test_answers_read_back_and_later_ones_win(tmp_path):
    cache = AnswerCache(tmp_path / "answers.jsonl")
    assert cache.read() == {}
    cache.append("k1", "<a_1>", Reply("Étagère 木\n", 3, 4))
    cache.append("k1", "<a_1>", Reply("later"))
    cache.append("k2", "<a_2>", Reply("other"))
    assert cache.read() == {"k1": Reply("later"), "k2": Reply("other")}


def test_an_unusable_answer_is_kept_and_never_given_out(tmp_path):
    cache = AnswerCache(tmp_path / "answers.jsonl")
    cache.append("k1", "<a_1>", Reply("I cannot."), "not valid JSON")
    assert cache.read() == {}
    assert "I cannot." in cache.path.read_text()


def test_a_half_last_line_is_passed_over_and_the_next_answer_starts_afresh(tmp_path):
    cache = AnswerCache(tmp_path / "answers.jsonl")
    cache.append("k1", "<a_1>", Reply("one"))
    cache.append("k2", "<a_2>", Reply("two"))
    raw = cache.path.read_bytes()
    for cut in range(raw.index(b"\n") + 2, len(raw) - 1):
        cache.path.write_bytes(raw[:cut])
        assert cache.read() == {"k1": Reply("one")}
    cache.append("k3", "<a_3>", Reply("three"))
    assert cache.read() == {"k1": Reply("one"), "k3": Reply("three")}


def test_threads_do_not_mix_their_lines(tmp_path):
    cache = AnswerCache(tmp_path / "answers.jsonl")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: cache.append(f"k{n}", "<a_1>", Reply(f"{n}" * 500)), range(40)))
    assert cache.read() == {f"k{n}": Reply(f"{n}" * 500) for n in range(40)}


def test_the_key_depends_on_everything_that_decides_an_answer():
    base = ("gemini", "m", "prompt", {"temperature": 0.0})
    others = [("openai", *base[1:]), ("gemini", "m2", *base[2:]), (*base[:2], "prompt2", base[3])]
    others.append((*base[:3], {"temperature": 1.0}))
    assert len({answer_key(*parts) for parts in (base, *others)}) == 5
    assert answer_key(*base) == answer_key(*base)
    assert len(answer_key(*base)) == 64
