"""Lines on the way of a long fit."""

from tsrec_jax.sid.progress import Progress


def test_a_line_every_ten_seconds_says_how_far_it_is_and_how_long_it_will_take():
    seconds, lines = [0.0], []
    progress = Progress(6, lines.append, lambda: seconds[0])
    for _ in range(6):
        seconds[0] += 6.0
        progress.tick("level 1 of 2")
    assert lines == [
        "level 1 of 2: 2 of 6 steps, about 24 s left",
        "level 1 of 2: 4 of 6 steps, about 12 s left",
        "level 1 of 2: 6 of 6 steps",
    ]
