"""All settings: one tree of the rooms' sections, the config that users edit, and the way from one to the other.

An experiment is a file in `configs/` that starts from `default_config()` and changes what it needs; the command line
changes single keys (`--config.train.max_steps=100`). Below the command line everything takes `Settings` or a section.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from tsrec_jax.baselines.names import BASELINES
from tsrec_jax.data.prompts import Templates
from tsrec_jax.data.settings import DatasetSettings
from tsrec_jax.data.tasks import TasksSettings
from tsrec_jax.errors import UserError
from tsrec_jax.evaluation.settings import EvalSettings
from tsrec_jax.experiments import experiments
from tsrec_jax.fusion.settings import DENSE, FusionSettings
from tsrec_jax.models.settings import DenseSettings, MeshSettings, ModelSettings, PretrainSettings, SidInitSettings
from tsrec_jax.old_keys import what_became_of
from tsrec_jax.pipeline.settings import RunSettings, StudySettings
from tsrec_jax.prepare.settings import PrepareSettings
from tsrec_jax.rl.settings import RlSettings
from tsrec_jax.section import Section, hints_of, near, refuse_other, section, setting
from tsrec_jax.serving.settings import ExportSettings
from tsrec_jax.shop.settings import ShopSettings
from tsrec_jax.sid.settings import IndexSettings
from tsrec_jax.teacher.settings import DescribeSettings
from tsrec_jax.training.settings import TrainSettings
from tsrec_jax.training.wandb_log import require_wandb

GIVE = f"--config=FILE.py or --config=NAME ({', '.join(experiments())})"  # how a command names its config
ARMS = "study.arms"  # the section whose keys the user chooses
_WORDED = Templates()
_SIDS_ALONE = _WORDED.changed({"separator": "", "next_sid": {"header": "", "prompt": "{history}"}})
# What the objective decides if the config leaves it open. The defaults of the sections fit the first objective.
BY_OBJECTIVE: Mapping[str, Mapping[str, Any]] = {
    objective: {
        "tasks.next_sid.user_sequences": constrained,
        "tasks.distilled_sid.soft_labels": constrained,
        "templates.separator": templates.separator,
        "templates.next_sid.header": templates["next_sid"].header,
        "templates.next_sid.prompt": templates["next_sid"].prompt,
    }
    for objective, constrained, templates in (("constrained", True, _SIDS_ALONE), ("vocabulary", False, _WORDED))
}
# The recipe of the paper (arXiv 2602.22632), where it differs from the default; the rows of SA-Init stay centred.
PAPER = {
    "objective": "vocabulary",
    "tasks": {
        **{name: {"rate": 1.0} for name in ("next_sid", "next_title", "title_sid", "ts_align")},
        **{name: {"rate": 0.0} for name in ("augmented_sid", "distilled_sid")},
    },
    "train": {
        "epochs": 10.0,
        "batch_tokens": 131072,
        "sequence_length": 512,
        "rows_per_group": 1,
        "learning_rate": 3e-4,
        "validations": 20,
        "patience": 3,
        "select_by": "loss",
        "valid_beam_rows": 256,
    },
}


@dataclasses.dataclass(frozen=True)
class Settings(Section):
    """All settings of a run or a study, as `settings_of` gives them.

    Attributes:
      given: the config that they were made from, as plain values; None marks what the objective decides, so that
        `changed` can change the objective. Everything else goes by the decided values (`resolved`).
    """

    seed: int = setting(42, "seed of every random choice", least=0)
    objective: Literal["constrained", "vocabulary"] = setting(
        "constrained",
        "which tokens a SID token competes with, in training and in search: only those that can follow in a SID "
        "of the catalogue (`constrained`), or all tokens (`vocabulary`). It also decides every setting whose "
        "default is `None`, as listed below",
    )
    dataset: DatasetSettings = section(DatasetSettings)
    prepare: PrepareSettings = section(PrepareSettings)
    shop: ShopSettings = section(ShopSettings)
    model: ModelSettings = section(ModelSettings)
    pretrain: PretrainSettings = section(PretrainSettings)
    index: IndexSettings = section(IndexSettings)
    describe: DescribeSettings = section(DescribeSettings)
    mesh: MeshSettings = section(MeshSettings)
    sid_init: SidInitSettings = section(SidInitSettings)
    dense: DenseSettings = section(DenseSettings)
    tasks: TasksSettings = section(TasksSettings)
    templates: Templates = _SIDS_ALONE
    train: TrainSettings = section(TrainSettings)
    rl: RlSettings = section(RlSettings)
    fusion: FusionSettings = section(FusionSettings)
    eval: EvalSettings = section(EvalSettings)
    export: ExportSettings = section(ExportSettings)
    run: RunSettings = section(RunSettings)
    study: StudySettings = section(StudySettings)
    given: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        tasks, distilled = self.tasks, self.tasks.distilled_sid
        if not tasks.used():
            raise UserError("every task has weight 0 or rate 0: set config.tasks.next_sid.weight above 0")
        refuse_other(distilled.config_key("teacher"), distilled.teacher, BASELINES)
        if DENSE in self.fusion.parts and not self.dense.weight:
            raise UserError(
                f"config.fusion.parts names {DENSE!r}, the model's dense head; set config.dense.weight, which trains it"
            )
        if "distilled_sid" in tasks.used() and distilled.soft_labels and not self.constrained:
            raise UserError(
                "config.tasks.distilled_sid.soft_labels=True needs config.objective='constrained', where several may "
                "be right"
            )
        if self.dense.weight and "next_sid" not in tasks.used():
            raise UserError(
                f"config.dense.weight={self.dense.weight} needs config.tasks.next_sid.weight and rate above 0: the "
                "dense head learns the items of its rows"
            )
        if self.train.select_by == "dense_hr@10" and not self.dense.weight:
            raise UserError(
                "config.train.select_by='dense_hr@10' needs a dense head; set config.dense.weight, which trains it"
            )
        model = self.model
        if model.trained and (self.dense.weight or model.random or model.num_layers or not model.path):
            raise UserError(
                "config.model.trained=True takes the model at config.model.path as it is: it needs a path, and neither "
                "config.model.random, config.model.num_layers nor a dense head (config.dense.weight)"
            )
        if self.train.adapter.rank and not self.rl.steps and (model.trained or not self.fusion.model):
            raise UserError(
                f"config.train.adapter.rank={self.train.adapter.rank} makes adapters that nothing trains: leave out "
                "config.model.trained and config.fusion.model=False, or set config.rl.steps"
            )
        if self.train.from_run and (model.trained or model.random or not self.fusion.model):
            raise UserError(
                f"config.train.from_run={self.train.from_run!r} trains the model of an earlier run further; leave out "
                "config.model.trained, config.model.random and config.fusion.model=False"
            )
        if self.rl.steps and not self.fusion.model:
            raise UserError(
                f"config.rl.steps={self.rl.steps} needs config.fusion.model=True: the second stage is the model's"
            )
        if self.rl.steps and not (self.constrained and self.train.valid_beam_rows):
            raise UserError(
                f"config.rl.steps={self.rl.steps} needs config.objective='constrained', whose probabilities the second "
                "stage learns from, and config.train.valid_beam_rows above 0, by which its weights are chosen"
            )
        if self.rl.steps and self.dense.weight:
            raise UserError(
                f"config.rl.steps={self.rl.steps} moves the weights that the dense head reads, and does not train the "
                "head; set config.dense.weight=0"
            )
        if self.train.wandb_project:
            require_wandb()

    @property
    def constrained(self) -> bool:
        """Whether SID tokens are learned and scored only against those that may stand in the same place."""
        return self.objective == "constrained"

    def changed(self, changes: Mapping[str, Any]) -> Settings:
        """These settings with nested changes.

        Raises:
          UserError: a key that does not exist, or a value that makes no sense.
        """
        config = default_config()
        update(config, self.given or self.resolved())
        update(config, changes)
        return settings_of(config)

    def resolved(self) -> dict[str, Any]:
        """All settings as nested plain values: what runs and cells record, and are compared by."""
        return _plain(self)

    def arm(self, name: str) -> Settings:
        """The settings of one arm of the study, which has no arms of its own.

        Raises:
          UserError: as `changed`; the message names the arm.
        """
        try:
            return self.changed(
                {"study": {"arms": {}, "comparisons": (), "explored": (), "curves": ()}, **self.study.arms[name]}
            )
        except UserError as error:
            raise UserError(f"{error} (in the arm {name!r})") from None


def default_config() -> ConfigDict:
    """All keys with their defaults, the recipe that docs/training.md recommends, for an experiment to change."""
    config = ConfigDict(Settings().resolved())
    for key, value in BY_OBJECTIVE["vocabulary"].items():
        place, _, name = key.rpartition(".")
        get(config, place)[name] = placeholder(type(value))
    return config.lock()


def paper_config() -> ConfigDict:
    """The recipe of the paper: all tasks on all rows, the objective `vocabulary`, prompts in words, large batches."""
    config = default_config()
    update(config, PAPER)
    return config


def settings_of(config: ConfigDict) -> Settings:
    """The settings that a config means, checked, with those of each arm of its study.

    Raises:
      UserError: the first value that cannot work, with its key.
    """
    given = config.to_dict()
    decided = config.to_dict()
    refuse_other("config.objective", given["objective"], tuple(BY_OBJECTIVE))
    for key, value in BY_OBJECTIVE[given["objective"]].items():
        place, _, name = key.rpartition(".")
        if get(decided, place)[name] is None:
            get(decided, place)[name] = value
    settings = dataclasses.replace(_section_of(Settings, decided), given=given)
    for name in settings.study.arms:
        settings.arm(name)
    return settings


def load_saved(workdir: pathlib.Path) -> Settings:
    """The settings that a run recorded in its `config.json`.

    Raises:
      UserError: there are none, they are not readable, or an earlier version wrote them.
    """
    path = pathlib.Path(workdir) / "config.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        saved = facts.get("config") if isinstance(facts, dict) else None
    except FileNotFoundError:
        raise UserError(
            f"{path}: not there; give {GIVE}, or a --workdir in which `train` or `run` was started"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a config that this program wrote ({error}); give --config=FILE.py") from None
    if not isinstance(saved, dict):
        raise UserError(f"{path}: holds no config that this program wrote; give --config=FILE.py")
    config = default_config()
    try:
        update(config, saved)
        return settings_of(config)
    except UserError as error:
        export = path.parent / "export"
        raise UserError(
            f"{path} holds settings that this version cannot use ({error}); train again, with --config=... and a new "
            f"--workdir{f'; {export} still works' if export.is_dir() else ''}"
        ) from None


def update(config: ConfigDict, changes: Mapping[str, Any], prefix: str = "") -> None:
    """Applies nested changes to a locked config.

    Raises:
      UserError: a key that does not exist (names the nearest one, or what took its place) or a value of another type.
    """
    for key, value in changes.items():
        name = f"{prefix}{key}"
        if line := what_became_of(name):
            raise UserError(line)
        is_section = isinstance(config.get(key), ConfigDict)
        if is_section and not isinstance(value, Mapping | ConfigDict):
            raise UserError(f"config key {name!r}: {value!r} is not a section of settings")
        if name == ARMS:
            config.arms = ConfigDict(dict(value))
        elif key not in config:
            raise UserError(f"config key {name!r} does not exist{near(key, config, prefix + '{}')}")
        elif is_section:
            update(config[key], value, f"{name}.")
        else:
            try:
                config[key] = tuple(value) if isinstance(config[key], tuple) and isinstance(value, list) else value
            except TypeError:
                kind = config.get_type(key).__name__
                raise UserError(f"config key {name!r}: {value!r} is not of type {kind}") from None


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings, or a section of them, as {prefix + `section.key`: JSON value}."""
    found: dict[str, Any] = {}
    if isinstance(tree, Templates):
        tree = tree.to_mapping()
    for key, value in (tree if isinstance(tree, Mapping) else vars(tree)).items():
        if isinstance(value, Mapping) or dataclasses.is_dataclass(value):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return found


def section_facts(section: Any, without: Sequence[str] = ()) -> dict[str, Any]:
    """The values of a section as JSON values, named `section.key`."""
    kept = {key: value for key, value in dataclasses.asdict(section).items() if key not in without}
    return flat(kept, f"{section.key}.")


def get(tree: Any, dotted: str) -> Any:
    """A part of a nested mapping by its dotted name."""
    for part in dotted.split("."):
        tree = tree[part]
    return tree


def _plain(value: Any) -> Any:
    if isinstance(value, Templates):
        return value.to_mapping()
    if isinstance(value, Section):
        return {name: _plain(part) for name, part in vars(value).items() if name != "given"}
    return dict(value) if isinstance(value, Mapping) else value


def _section_of(kind: type, values: Mapping[str, Any]) -> Any:
    if kind is Templates:
        return Templates.from_mapping(values)
    hints = hints_of(kind)
    return kind(
        **{
            name: _section_of(hints[name], value) if dataclasses.is_dataclass(hints[name]) else value
            for name, value in values.items()
        }
    )
