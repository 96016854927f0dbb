"""A new task is a class with its settings, its wording and its examples, and one field of the table."""

import dataclasses
from typing import ClassVar

import numpy as np
import pytest

from tsrec_jax.data.input import choose_loss_slots, train_batches
from tsrec_jax.data.prompts import PromptBuilder, Templates
from tsrec_jax.data.records import open_records, write_records
from tsrec_jax.data.tasks import TEMPLATES, TasksSettings, build_examples
from tsrec_jax.data.tasks.next_sid import NextSid
from tsrec_jax.data.tasks.task import Task, TaskInputs
from tsrec_jax.data.template import Template
from tsrec_jax.errors import UserError
from tsrec_jax.section import section, setting
from tsrec_jax.training.loss import slot_weights


@dataclasses.dataclass(frozen=True)
class BrandSid(Task, key="tasks.brand_sid"):
    """The brand of an item, then its SID."""

    templates: ClassVar = {"brand_to_sid": Template("Find an item.\n", "Brand: {brand}\nCode:", "{sid}")}

    weight: float = setting(0.5, "in the loss", least=0)
    shortest: int = setting(1, "characters of a brand, at least", above=0)

    def examples(self, inputs):
        catalogue = inputs.dataset.catalogue
        numbers = [n for n, item in enumerate(catalogue.items) if len(item.brand) >= self.shortest]
        brands, sids = [catalogue.items[n].brand for n in numbers], [catalogue.sid(n) for n in numbers]
        return self.from_template(inputs, "brand_to_sid", brands, sids, [f"item/{n}/brand" for n in numbers])


@dataclasses.dataclass(frozen=True)
class MoreTasks(TasksSettings):
    brand_sid: BrandSid = section(BrandSid)


def test_a_new_task_is_recorded_packed_and_weighed_like_the_others(dataset, tokenizer, tmp_path):
    tasks = MoreTasks(next_sid=NextSid(user_sequences=False))
    tasks = {name: task for name, task in tasks.used().items() if name in ("next_sid", "brand_sid")}
    builder = PromptBuilder(tokenizer, Templates({**TEMPLATES, **BrandSid.templates}))
    examples = build_examples(tasks, TaskInputs(dataset, "train", builder))
    assert {name: len(rows) for name, rows in examples.items()} == {"next_sid": 4, "brand_sid": 3}
    assert tokenizer.decode(examples["brand_sid"][0].tokens) == (
        "Find an item.\nBrand: Acme\nCode:<a_9><b_1><c_3>\n<|end|>"
    )

    write_records(examples, tmp_path / "records")
    rates = dict.fromkeys(tasks, 1.0)
    slots = choose_loss_slots(examples, rates, 256)
    sources = open_records(tmp_path / "records")
    batches = train_batches(sources, rates=rates, sequence_length=256, rows=4, loss_slots=slots, accumulation=1, seed=1)
    batch, keys = batches.batch(1), batches.keys(1)
    assert {row.task for row in sources["brand_sid"]} == {"brand_sid"}
    assert sorted({key for key in keys if key.startswith("item/")}) == ["item/0/brand", "item/2/brand", "item/4/brand"]
    weights, counts = slot_weights(batch["loss_task_GP"], tuple(task.weight for task in tasks.values()))
    assert (counts > 0).all()
    of_task = [np.unique(np.asarray(weights)[batch["loss_task_GP"] == number]) for number in (0, 1)]
    np.testing.assert_allclose(of_task[1] / of_task[0], [0.5])


def test_its_settings_and_wording_are_checked_like_the_others():
    with pytest.raises(UserError, match=r"config\.tasks\.brand_sid\.shortest=0 must be above 0"):
        BrandSid(shortest=0)
    templates = Templates({**TEMPLATES, **BrandSid.templates})
    assert templates.changed({"brand_to_sid": {"header": "Pick.\n"}})["brand_to_sid"].header == "Pick.\n"
    with pytest.raises(UserError, match=r"templates\.brand_to_sid\.prompt: takes exactly the placeholder \{brand\}"):
        templates.changed({"brand_to_sid": {"prompt": "Which?"}})
    assert [*MoreTasks().rates][-1] == "brand_sid" and "next_title" not in MoreTasks().used()
