"""The verb `plan`: from a config and a model's config.json alone."""

import json
import pathlib
import re

import jax
import pytest

from tsrec_jax.data.dataset import write_dataset
from tsrec_jax.data.text_rows import item_texts
from tsrec_jax.main import main
from tsrec_jax.models.small_lm import train_tokenizer
from tsrec_jax.planning.chips import CHIPS
from tsrec_jax.shop.shop import make_shop

ROOT = pathlib.Path(__file__).resolve().parents[2]
QWEN = {  # the shape of Qwen2.5-1.5B
    "model_type": "qwen2",
    "vocab_size": 151_936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}

PUBLISHED = {  # Qwen2.5: hidden and intermediate size, layers, heads, heads of k and v
    "0.5B": (896, 4864, 24, 14, 2),
    "1.5B": (1536, 8960, 28, 12, 2),
    "3B": (2048, 11_008, 36, 16, 2),
    "7B": (3584, 18_944, 28, 28, 4),
    "14B": (5120, 13_824, 48, 40, 8),
    "32B": (5120, 27_648, 64, 40, 8),
    "72B": (8192, 29_568, 80, 64, 8),
}


@pytest.fixture
def qwen(tmp_path):
    """A folder with a config.json and nothing else."""
    folder = tmp_path / "qwen"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(QWEN))
    return f"--config.model.path={folder}"


def plan(*arguments, config="amazon_qwen2_5_1_5b"):
    return main(["plan", f"--config={ROOT / 'configs' / config}.py", *arguments])


def test_parameters_memory_flops_and_time_are_printed_for_every_chip(qwen, capsys, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: pytest.fail("a plan asks for no device"))
    assert plan(qwen, "--devices=16") == 0
    printed = capsys.readouterr().out
    assert "1,546,270,208 parameters, all trained" in printed
    assert "mesh data 1 x fsdp 16 x tensor 1 = 16 device(s)" in printed
    assert "131,072 token slots (4 x 64 rows of 512), 32,768 loss slots" in printed
    assert "the number of steps is unknown" in printed
    for chip in CHIPS:
        assert re.search(rf"16 x {chip} .* yes .*\?", printed), chip
    assert "40% of the bfloat16 peak" in printed


def test_what_a_device_holds_is_told_for_every_choice_of_what_trains(qwen, capsys):
    found = []
    for settings in ((), ("--config.train.freeze=trunk", "--config.train.adapter.rank=16")):
        assert plan(qwen, "--devices=1", "--config.train.accumulation=64", *settings) == 0
        printed = capsys.readouterr().out
        found.append(re.findall(r"^ *(all|all, .+|SID .+?)  +([\d,]+) +([\d.]+) GiB$", printed, re.M))
        assert f"memory of a device: {found[-1][3 if settings else 0][2]} GiB" in printed
    assert found[0] == found[1], "the table does not depend on what is chosen"
    everything, small_moments, rows, adapters = ((int(n.replace(",", "")), float(gib)) for _, n, gib in found[0])
    assert everything[0] == small_moments[0] == 1_544_893_952
    assert rows[0] == 768 * QWEN["hidden_size"] and adapters[0] == rows[0] + 18_464_768
    assert rows[1] < adapters[1] < everything[1] / 4 < small_moments[1] < everything[1]


def test_the_documented_tables_are_what_is_planned_for_the_published_shapes(tmp_path, capsys):
    held = {}
    for size, shape in PUBLISHED.items():
        names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
        facts = QWEN | dict(zip(names, shape, strict=True))
        if size not in ("0.5B", "1.5B", "3B"):
            facts |= {"vocab_size": 152_064, "tie_word_embeddings": False}
        (tmp_path / "config.json").write_text(json.dumps(facts))
        assert plan(f"--config.model.path={tmp_path}", "--devices=1", "--config.train.accumulation=64") == 0
        rows = re.findall(r"^ *(all|all, .+|SID .+?)  +[\d,]+ +([\d.]+) GiB$", capsys.readouterr().out, re.M)
        held[size] = {name: float(gib) for name, gib in rows}

    def largest(trained, gib):
        return max((size for size in held if held[size][trained] <= 0.9 * gib), key=list(held).index, default="none")

    documented = (ROOT / "docs" / "training.md").read_text()
    for name in held["0.5B"]:
        memory, sizes = re.findall(rf"^\| {name} \| (.+) \|$", documented, re.M)
        assert [float(gib) for gib in memory.split(" | ")] == pytest.approx(
            [held[size][name] for size in ("0.5B", "1.5B")], abs=0.055
        )
        assert sizes.split(" | ") == [largest(name, gib) for gib in (8, 16, 24, 80)]


def test_output_rows_of_their_own_are_a_second_table_and_scales_a_copy_of_it(qwen, capsys):
    found = []
    for head in ("plain", "own", "scaled"):
        assert plan(qwen, "--devices=16", f"--config.sid_init.head={head}") == 0
        words = re.search(
            r"([\d,]+) table rows, \w+: ([\d,]+) parameters.*of a device: ([\d.]+) GiB", capsys.readouterr().out, re.S
        )
        found.append([float(number.replace(",", "")) for number in words.groups()])
    (rows, parameters, memory), (_, more, most), (_, same, some) = found
    assert more == parameters + rows * QWEN["hidden_size"] and same == parameters
    assert memory < some < most


def test_the_whole_training_is_given_in_hours_of_one_chip_at_the_assumed_mfu(qwen, capsys):
    assert plan(qwen, "--devices=16", "--chip=v5e", "--mfu=0.5", "--config.train.max_steps=1000") == 0
    printed = capsys.readouterr().out
    flops = float(re.search(r"loss slots, ([\d.]+) PFLOP", printed).group(1)) * 1e15
    seconds, hours = re.search(r"16 x v5e .* yes +([\d.]+) .* ([\d.]+) minutes", printed).groups()
    assert float(seconds) == pytest.approx(flops / (16 * 197e12 * 0.5), rel=0.01)
    assert float(hours) == pytest.approx(float(seconds) * 1000 / 60, rel=0.01)
    assert "h100" not in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--devices=4", "--config.mesh.tensor=4", "--config.mesh.fsdp=1"), ["heads of k (2)", "config.mesh.tensor=2"]),
        (("--devices=24",), ["24", "config.train.batch_tokens=196608"]),
        (("--devices=6", "--config.mesh.data=4"), ["--devices=6", "--devices=4"]),
        (("--devices=1", "--chip=v5e"), ["GiB on each device", "v5e", "more devices along config.mesh.fsdp"]),
        (("--chip=v5x",), ["v5x", "v5e"]),
        (("--mfu=1.5",), ["--mfu=1.5"]),
        (("--config.model.num_layers=29",), ["num_layers=29", "28 layers"]),
        (("--config.model.path=Nobody/Nothing",), ["Nobody/Nothing", "hub gave no copy"]),
        (("--k=3", "--profile=2"), ["--profile is for the verb train or run"]),
    ],
)
def test_what_cannot_work_is_one_line_with_the_fix(qwen, capsys, arguments, words):
    assert plan(qwen, *arguments) == 2
    line = capsys.readouterr().err
    assert line.startswith("tsrec: ")
    assert len(line.splitlines()) == 1
    for word in words:
        assert word in line


def test_the_embedded_default_is_planned_without_anything(capsys):
    assert plan(config="quickstart") == 0
    printed = capsys.readouterr().out
    assert "the embedded model, 4 layers" in printed
    assert "360 steps" in printed and "dense head" not in printed
    second = ("--config.objective=constrained", "--config.rl.steps=9")
    assert plan(*second, config="quickstart") == 0
    assert re.search(r"prompts of at most 256 tokens .*; an upper bound", capsys.readouterr().out)
    assert plan("--config.dense.weight=1.0", config="quickstart") == 0
    assert "360 steps; the dense head is left out" in capsys.readouterr().out
    assert "float32, which accelerators compute" in printed


def test_rows_are_counted_where_the_dataset_and_the_tokenizer_are_here(tmp_path, capsys):
    shop = make_shop(seed=1, num_items=70, num_users=40)
    write_dataset("shop", shop.catalogue, shop.splits, shop.token_descriptions, tmp_path / "shop")
    model = tmp_path / "model"
    train_tokenizer(item_texts(shop.catalogue.items), model, vocab_size=600)
    (model / "config.json").write_text(json.dumps({**QWEN, "model_type": "llama", "vocab_size": 600}))
    given = (f"--config.dataset.path={tmp_path / 'shop'}", f"--config.model.path={model}", "--config.index.sids=given")
    settings = ("--config.train.max_steps=0", "--config.train.epochs=3.0", "--config.tasks.next_title.rate=1.0")
    second = ("--config.objective=constrained", "--config.tasks.next_sid.user_sequences=False", "--config.rl.steps=9")
    assert plan(*given, *settings, *second, config="quickstart") == 0
    printed = capsys.readouterr().out
    assert int(re.search(r"prompts of at most (\d+) tokens", printed).group(1)) < 100 and "upper bound" not in printed
    rows, tokens, steps = (
        int(number.replace(",", ""))
        for number in re.search(
            r"([\d,]+) training rows of shop with ([\d,]+) tokens; ([\d,]+) steps", printed
        ).groups()
    )
    assert rows == 2 * len(shop.splits["train"]) + 2 * len(shop.catalogue.items) + 2 * len(shop.catalogue.tokens)
    assert 3 * tokens / 1024 < steps < 3 * tokens / 1024 * 1.2


@pytest.mark.parametrize("with_sids", [False, True])
def test_a_broken_folder_is_refused_whether_or_not_it_has_sids(qwen, tmp_path, capsys, with_sids):
    shop = make_shop(seed=1, num_items=70, num_users=40)
    folder = tmp_path / "shop"
    write_dataset("shop", shop.catalogue, shop.splits, (), folder)
    if not with_sids:
        (folder / "shop.index.json").unlink()
    given = (qwen, "--devices=16", f"--config.dataset.path={folder}", "--config.index.sids=auto")
    assert plan(*given) == 0
    assert "the training rows are not here" in capsys.readouterr().out
    with (folder / "train.csv").open("a") as file:
        file.write("u,x\n")
    assert plan(*given) == 2
    line = capsys.readouterr().err
    assert f"train.csv, row {len(shop.splits['train']) + 2}: has another number of fields" in line


def test_a_plan_needs_a_config_or_a_workdir(capsys):
    assert main(["plan"]) == 2
    assert "--workdir=DIR or --config=FILE.py" in capsys.readouterr().err
