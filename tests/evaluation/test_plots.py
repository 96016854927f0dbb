"""The curves of a training."""

from matplotlib import pyplot
from matplotlib.axes import Axes

from tsrec_jax.evaluation import plots


def test_curves_show_what_was_logged_and_leave_out_what_was_not(tmp_path, monkeypatch):
    seen = {}
    write_figure = plots.write_figure

    def look(path, figure):
        for axis in filter(Axes.get_visible, figure.axes):
            seen[axis.get_title()] = sorted(line.get_label() for line in axis.get_lines())
            assert all(len(line.get_xdata()) == 1 for line in axis.get_lines()), "a NaN, stored by name, is no point"
        write_figure(path, figure)

    monkeypatch.setattr(plots, "write_figure", look)
    rows = [
        {"step": 1, "loss": 3.0, "loss/next_sid": 3.5, "grad_norm": 1.0, "grad_norm/new_rows": 0.5, "mfu": 0.4},
        {"step": 2, "loss": "nan", "padding_share": 0.05},
        {"step": 2, "valid/loss": 2.5, "drift/cosine_0": 0.99, "drift/norm_0": 1.1},
    ]
    plots.plot_training({"TS-Rec": rows, "plain": [{"step": 2, "valid/loss": 2.75}]}, tmp_path / "a" / "training.png")
    assert seen == {
        "TS-Rec: loss": ["loss", "loss/next_sid"],
        "validation, next SID": ["TS-Rec", "plain"],
        "gradient norm": ["grad_norm", "grad_norm/new_rows"],
        "SID embeddings against SA-Init": ["drift/cosine_0", "drift/norm_0"],
        "padding, waiting, MFU": ["mfu", "padding_share"],
    }
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["training.png"]
    assert not pyplot.get_fignums()
