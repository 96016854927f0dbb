"""The configuration: every key with its default, and the typed views of it that the rest of the package takes.

`ml_collections` stays at this edge. An experiment is a file in `configs/` that starts from `default_config()` and
changes what it needs; the command line changes single keys (`--config.train.max_steps=100`).
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from tsrec_jax.baselines.names import BASELINES
from tsrec_jax.data.prompts import Templates
from tsrec_jax.errors import UserError
from tsrec_jax.experiments import experiments
from tsrec_jax.teacher.settings import TeacherSettings
from tsrec_jax.training.wandb_log import require_wandb

GIVE = f"--config=FILE.py or --config=NAME ({', '.join(experiments())})"  # how a command names its config
UPSTREAM = ("prepare", "index", "describe")
STAGES = (*UPSTREAM, "train", "evaluate", "export")
ARMS = ("run.arms", "study.arms")  # sections with keys of the user's choice
# What settings did before they could be set, where their default is another one by now.
_AT_FIRST = {
    "sid_init": {"centred": False},
    "prepare": {"ties": "item"},
    "index": {"sizes": (256, 256, 256)},
}


def default_config() -> ConfigDict:
    """All keys with their defaults (the paper's recipe where it states one)."""
    config = ConfigDict()
    config.seed = 42

    config.dataset = ConfigDict()
    config.dataset.path = ""  # a dataset folder; empty: what `prepare` makes, or the embedded shop
    config.dataset.name = ""  # NAME of NAME.item.json; empty: the one found in the folder
    config.dataset.overlaps = "warn"  # rows that stand in two splits: warn | refuse
    config.dataset.ragged_sids = "refuse"  # given SIDs of which some have one token more: refuse | fill | drop
    config.prepare = ConfigDict()  # raw data to a folder (only when dataset.path is empty and a source is named)
    config.prepare.source = ""  # amazon2018 | amazon2023 | tables; empty: no raw data
    config.prepare.name = ""  # NAME of the folder's files; empty: the category, else "data"
    config.prepare.category = ""  # amazon: as the site spells it, e.g. Industrial_and_Scientific
    config.prepare.raw = ""  # amazon: the folder of the raw files, which `download` fills
    config.prepare.base_url = ""  # amazon: a mirror; empty: the publishers' site
    config.prepare.interactions_file = ""  # tables: CSV or Parquet with user, item, timestamp (seconds or ISO 8601)
    config.prepare.items_file = ""  # tables: CSV or Parquet with item, title and, if there are any, the other texts
    config.prepare.columns = ""  # tables: what they call these, "user=userId,item=movieId,items.item=id"; empty: that
    config.prepare.encoding = ""  # tables: of CSV files that are not UTF-8, as cp1252; a mark is stronger
    config.prepare.max_unreadable = 0.05  # share of a raw file's lines that may be lost; more are refused
    config.prepare.max_unmatched = 0.2  # share of the interactions whose item may lack an entry or a usable title
    config.prepare.k_core = 5  # users and items with fewer interactions are left out, until none is left
    config.prepare.start = ""  # ISO 8601, UTC; empty: no limit
    config.prepare.end = ""  # exclusive
    config.prepare.max_history = 10
    config.prepare.split = "ratio"  # ratio | date | leave_one_out
    config.prepare.ratios = (8.0, 1.0, 1.0)
    config.prepare.valid_from = ""  # split "date": ISO 8601 of the first target of valid, and of test
    config.prepare.test_from = ""
    config.prepare.max_title_words = 0  # items with longer titles are left out; 0: no limit
    config.prepare.clean_titles = True
    config.prepare.ties = "auto"  # of one user and second: file | shuffled | item | auto: file, unless sorted by item
    config.shop = ConfigDict()  # the embedded shop (only when neither is given)
    config.shop.num_items = 300
    config.shop.num_users = 900

    config.model = ConfigDict()
    config.model.path = ""  # HF folder, hub id, .gguf file or "smollm2"; empty: the run pretrains a small one itself
    config.model.num_layers = 0  # keep the first n layers; 0: all
    config.model.random = False  # weights of that shape drawn anew: nothing of the pretraining but the tokenizer
    config.model.dtype = "float32"  # compute type; parameters and moments stay float32 in training
    config.model.remat = True  # recompute a layer's activations in the backward pass
    config.model.attention = "auto"  # auto | xla | cudnn | splash | pallas: what computes it (docs/training.md)

    config.pretrain = ConfigDict()  # the small language model (only when model.path is empty)
    config.pretrain.vocab_size = 1500
    config.pretrain.max_steps = 300
    config.pretrain.batch_tokens = 4096
    config.pretrain.sequence_length = 128
    config.pretrain.learning_rate = 2e-3

    config.index = ConfigDict()  # item texts to semantic IDs
    config.index.sids = "auto"  # given | make | auto: given where the folder has them
    config.index.method = "rq_kmeans_balanced"  # rq_kmeans | rq_kmeans_balanced | rq_vae
    config.index.sizes = ()  # codes of each level, any number of levels; empty: by the number of items (sid/sizes.py)
    config.index.collisions = "sinkhorn"  # none | sinkhorn | extra_level
    config.index.whiten = 256  # principal components that are kept, with one variance; 0: no whitening
    config.index.iterations = 20  # of k-means, a level
    config.index.rows_per_code = 0  # rq_kmeans: items per code that k-means looks at; 0: all
    config.index.hidden = (512, 256, 128)  # rq_vae; the reference has (2048, 1024, 512, 256, 128, 64)
    config.index.latent = 32
    config.index.epochs = 100
    config.index.batch_size = 256
    config.index.embeddings = ""  # .npy of (items, features) in the folder's item order; empty: `encoder` makes them
    config.index.encoder = "llm"  # llm: the run's own pretrained model | sentence_transformers
    config.index.model = ""  # another model for the encoder; empty: model.path, with all its layers
    config.index.text_fields = ("title", "brand", "categories", "description")
    config.index.max_tokens = 128  # of an item's text
    config.index.batch_rows = 16  # texts of a batch on each device
    config.index.extend = ""  # sid_index.npz of an earlier run: its items keep their SIDs, new ones are coded by it
    config.index.max_collision_rate = 1.0  # gates: a report beyond them fails the run
    config.index.min_code_use = 0.0
    config.index.min_perplexity = 0.0  # of each level, as a share of its codes

    config.describe = ConfigDict()  # words for the SID tokens
    config.describe.words = "auto"  # given | make | none | auto: given where the folder has them and the SIDs are given
    config.describe.backend = "offline"  # offline | file | gemini | gemini_legacy | openai
    config.describe.model = ""  # name at the provider
    config.describe.base_url = ""  # empty: the SDK's own
    config.describe.path = ""  # backend "file": a description_keywords.json
    config.describe.items_per_token = 40  # a larger cluster is sampled
    config.describe.num_keywords = 20
    config.describe.description_chars = 300  # of an item's description in a prompt
    config.describe.concurrency = 8
    config.describe.requests_per_minute = 0.0  # 0: no limit
    config.describe.max_attempts = 5
    config.describe.timeout_seconds = 60.0
    config.describe.temperature = 0.0  # below 0: the server's default
    config.describe.answer_format = "schema"  # openai: schema | object | text
    config.describe.input_price = 0.0  # of a million tokens; 0: unknown
    config.describe.output_price = 0.0
    config.describe.max_questions = 0  # over all runs of a workdir, repetitions too; 0: no limit
    config.describe.max_cost = 0.0  # of them, in the currency of the prices; 0: no limit

    config.mesh = ConfigDict()  # devices per axis; one may be -1: the devices that are left
    config.mesh.data = -1
    config.mesh.fsdp = 1
    config.mesh.tensor = 1

    config.sid_init = ConfigDict()
    config.sid_init.mode = "sa"  # sa | sa_shuffled | mean | hf | normal
    config.sid_init.levels = ()  # levels (from 0) that get `mode`, the others get `mean`; empty: all
    config.sid_init.centred = True  # take from each row of SA-Init what all rows of its level share
    config.sid_init.target_norm = 1.0  # multiple of the mean row norm of the pretrained table
    config.sid_init.outputs = True  # untied models: initialise the output rows in the same way

    config.tasks = ConfigDict()  # weight: in the loss; rate: rows per epoch, 1 = each row once, 0 = left out
    config.tasks.next_sid = ConfigDict({"weight": 1.0, "rate": 1.0})
    config.tasks.next_sid.chains = False  # rows of a user that continue each other as one example (data/chains.py)
    config.tasks.next_title = ConfigDict({"weight": 1.0, "rate": 1.0})
    config.tasks.title_sid = ConfigDict({"weight": 1.0, "rate": 1.0})
    config.tasks.varied_sid = ConfigDict({"weight": 1.0, "rate": 0.0})  # histories thinned and reversed
    config.tasks.varied_sid.copies = 4  # variants of each chain; an epoch shows `rate` of them
    config.tasks.similar_sid = ConfigDict({"weight": 1.0, "rate": 0.0})  # histories, then an item of like text
    config.tasks.similar_sid.copies = 2  # of each training row
    config.tasks.similar_sid.history = 3  # its last items
    config.tasks.similar_sid.nearest = 20  # items to choose from, in proportion to cosine ** sharpness
    config.tasks.similar_sid.sharpness = 3.0
    config.tasks.distilled_sid = ConfigDict({"weight": 1.0, "rate": 0.0})  # histories, then what a teacher recommends
    config.tasks.distilled_sid.teacher = "hybrid"  # a baseline (baselines/names.py), fitted on train before training
    config.tasks.distilled_sid.soft = False  # its whole ranking is learned instead of one item that is drawn
    config.tasks.distilled_sid.throughout = False  # with `soft`: the teacher is asked after every item of a history too
    config.tasks.distilled_sid.copies = 12  # of each training row
    config.tasks.distilled_sid.history = 4  # its last items, at most
    config.tasks.distilled_sid.any_item = 0.0  # share of the history's items that give way to any of the catalogue
    config.tasks.distilled_sid.targets = 1  # items that it goes on with, each of which is learned
    config.ts_align = ConfigDict({"weight": 1.0, "rate": 1.0})  # weight 0: no TS-Align at all
    config.templates = ConfigDict(Templates().to_mapping())  # the wording of data/prompts.py

    config.train = ConfigDict()
    config.train.max_steps = 0  # optimiser steps; 0: from `epochs`
    config.train.epochs = 10.0
    config.train.batch_tokens = 131072  # token slots of one optimiser step, over all devices and accumulation
    config.train.sequence_length = 512  # of a packed row, and the longest example
    config.train.slot_rows = (
        1  # rows that share their loss slots: more waste fewer; data x fsdp must divide their groups
    )
    config.train.accumulation = 1
    config.train.learning_rate = 3e-4
    config.train.schedule = "linear"  # linear | cosine | constant
    config.train.warmup_steps = 20
    config.train.weight_decay = 0.0
    config.train.clip_norm = 1.0
    config.train.freeze = "none"  # none | old_rows | trunk
    config.train.new_rows_rate = 1.0  # learning rate of the SID tokens' rows, as a multiple of learning_rate
    config.train.loss_normalisation = "token"  # token | task
    config.train.sid_loss = "vocab"  # SID tokens are learned among: vocab | catalogue (those that may stand there)
    config.train.loss_chunk = 0  # loss slots of a group whose logits are held at once; 0: all
    config.train.validations = 20  # validations over the whole run (the recipe checks every 5 % of the steps)
    config.train.patience = 3  # validations without improvement; 0: never stop early
    config.train.select_by = "loss"  # loss | hr@10, on the validation split
    config.train.held_out = 0.0  # share of the users of train that are the validation split instead of valid
    config.train.valid_rows = 0  # validation rows for the loss, spread over the split; 0: all
    config.train.valid_beam_rows = 256  # validation rows for HR@10, spread over the split; 0: none
    config.train.checkpoint_every = 200
    config.train.keep = 2  # states for resuming, at least 2: a damaged newest one falls back to the one before
    config.train.explode_factor = 10.0  # a loss this many times the usual one, three times in a row, stops; 0: never
    config.train.log_every = 10
    config.train.wandb_project = ""  # sends the metrics to Weights & Biases too (extra `wandb`); empty: does not

    config.eval = ConfigDict()
    config.eval.split = "test"  # falls back to valid, and says so, where a folder has no test split
    config.eval.beams = 20
    config.eval.batch_size = 32
    config.eval.normaliser = "vocab"  # of a step's score: vocab | level | catalogue
    config.eval.score_end = False  # add the scores of the newline and end of text behind a SID (only with vocab)
    config.eval.max_rows = 0  # rows of the split, spread over it; 0: all
    config.eval.prior = ""  # a baseline whose scores the search adds to the model's (baselines/names.py); empty: none
    config.eval.prior_weights = (1.0, 4.0, 16.0, 64.0, 256.0)  # tried on the split that models are selected on
    config.eval.prior_rows = 1024  # of that split, spread over it; 0: all
    config.eval.bootstrap = 1000  # resamples of the 95 % intervals

    config.export = ConfigDict()
    config.export.dtype = "float32"

    config.run = ConfigDict()
    config.run.stages = STAGES
    config.run.arms = ConfigDict()  # NAME -> overrides: trained and evaluated beside the main model

    config.study = ConfigDict()  # the verb `study`: every arm with every seed, and one report (docs/studies.md)
    config.study.arms = ConfigDict()  # NAME -> overrides of any section but study and run
    config.study.seeds = (1, 2, 3)  # of training; what comes before it has the seed above
    config.study.comparisons = ()  # texts "ARM > OTHER", each a paired test; OTHER may be a baseline
    config.study.baselines = ()  # names in tsrec_jax.baselines.names
    config.study.curves = ()  # arms whose curves are drawn together; empty: all
    config.study.keep_weights = False  # keep checkpoints and records of finished cells
    return config.lock()


def config_at_first() -> ConfigDict:
    """All keys with what the code did before they could be set: what holds for a record that is older than a key."""
    config = default_config()
    update(config, _AT_FIRST)
    return config


def load_saved(workdir: pathlib.Path) -> ConfigDict:
    """The resolved config that a run wrote to its `config.json`, as a locked ConfigDict.

    Keys that are newer than the run have what the code did then.

    Raises:
      UserError: there is none, or it is not readable.
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
    config = config_at_first()
    update(config, saved)
    return config


def update(config: ConfigDict, changes: dict | ConfigDict, prefix: str = "") -> None:
    """Applies nested changes to a locked config.

    Raises:
      UserError: a key that does not exist (names the nearest one) or a value of another type.
    """
    for key, value in changes.items():
        name = f"{prefix}{key}"
        if isinstance(config.get(key), ConfigDict) and not isinstance(value, Mapping | ConfigDict):
            raise UserError(f"config key {name!r}: {value!r} is not a section of settings")
        if name in ARMS:
            config.arms = ConfigDict(dict(value))
            continue
        if key not in config:
            near = difflib.get_close_matches(key, list(config.keys()), n=1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else ""
            raise UserError(f"config key {name!r} does not exist{hint}")
        if isinstance(config[key], ConfigDict):
            update(config[key], value, f"{name}.")
            continue
        try:
            config[key] = tuple(value) if isinstance(config[key], tuple) else value
        except TypeError:
            raise UserError(f"config key {name!r}: {value!r} is not of type {type(config[key]).__name__}") from None


def arm_config(config: ConfigDict, name: str) -> ConfigDict:
    """The config of one comparison arm: the main one with the arm's overrides.

    Raises:
      UserError: the arm changes a key that does not exist, or one that the whole run shares.
    """
    changes = config.run.arms[name]
    arm = changed(config, changes)
    shared = [key for key in changes if key in SHARED_BY_ARMS]
    shared += [f"{part}.{key}" for part, key in SHARED_KEYS if key in changes.get(part, {})]
    if shared:
        raise UserError(
            f"config.run.arms.{name}: {shared[0]!r} is the same for all arms of a run; "
            "use another --workdir for another one"
        )
    return arm


def study_arm_config(config: ConfigDict, name: str) -> ConfigDict:
    """The config of one arm of a study: the main one with the arm's overrides, and no arms of its own.

    Raises:
      UserError: the arm changes a key that does not exist, or one that the study itself decides.
    """
    changes = config.study.arms[name]
    decided = [key for key in ("study", "run", "seed") if key in changes]
    if decided:
        raise UserError(
            f"config.study.arms.{name}: {decided[0]!r} is the same for all arms of a study (config.study.seeds are the "
            "seeds of training); use another --workdir for another one"
        )
    return changed(config, {**changes, "study": {"arms": {}, "comparisons": (), "curves": ()}})


def changed(config: ConfigDict, changes: dict | ConfigDict) -> ConfigDict:
    """A locked copy of a config with nested changes."""
    copy = ConfigDict(config.to_dict()).copy_and_resolve_references()
    copy.lock()
    update(copy, changes)
    return copy


CHOICES = {
    "dataset.overlaps": ("warn", "refuse"),
    "dataset.ragged_sids": ("refuse", "fill", "drop"),
    "sid_init.mode": ("sa", "sa_shuffled", "mean", "hf", "normal"),
    "model.dtype": ("float32", "bfloat16"),
    "model.attention": ("auto", "xla", "cudnn", "splash", "pallas"),
    "export.dtype": ("float32", "bfloat16"),
    "train.schedule": ("linear", "cosine", "constant"),
    "train.freeze": ("none", "old_rows", "trunk"),
    "train.loss_normalisation": ("token", "task"),
    "train.sid_loss": ("vocab", "catalogue"),
    "train.select_by": ("loss", "hr@10"),
    "eval.split": ("test", "valid"),
    "eval.prior": ("", *BASELINES),
    "tasks.distilled_sid.teacher": BASELINES,
    "eval.normaliser": ("vocab", "level", "catalogue"),
    "prepare.source": ("", "amazon2018", "amazon2023", "tables"),
    "index.sids": ("auto", "given", "make"),
    "index.method": ("rq_kmeans", "rq_kmeans_balanced", "rq_vae"),
    "index.collisions": ("none", "sinkhorn", "extra_level"),
    "index.encoder": ("llm", "sentence_transformers"),
    "describe.words": ("auto", "given", "make", "none"),
}
TEXT_FIELDS = ("title", "brand", "categories", "description")
SHARED_BY_ARMS = ("dataset", "prepare", "shop", "index", "describe", "pretrain", "mesh", "eval", "export", "run")
SHARED_KEYS = (("model", "path"), ("train", "held_out"))
POSITIVE = ("train.batch_tokens", "train.sequence_length", "train.slot_rows", "train.accumulation",
            "train.log_every", "train.learning_rate", "train.new_rows_rate", "eval.beams", "eval.batch_size",
            "index.iterations", "index.epochs", "index.latent", "index.batch_size",
            "index.max_tokens", "index.batch_rows",
            "tasks.varied_sid.copies", "tasks.similar_sid.copies", "tasks.similar_sid.history",
            "tasks.similar_sid.nearest", "tasks.distilled_sid.copies", "tasks.distilled_sid.history",
            "tasks.distilled_sid.targets", "tasks.similar_sid.sharpness",
            "pretrain.vocab_size", "pretrain.max_steps", "pretrain.batch_tokens", "pretrain.sequence_length",
            "pretrain.learning_rate", "shop.num_items", "shop.num_users")  # fmt: skip
NOT_NEGATIVE = ("train.max_steps", "train.epochs", "train.warmup_steps", "train.validations", "train.patience",
                "train.checkpoint_every", "train.explode_factor", "train.valid_rows", "train.valid_beam_rows",
                "eval.max_rows", "eval.prior_rows", "eval.bootstrap", "model.num_layers",
                "ts_align.weight", "ts_align.rate", "sid_init.target_norm", "index.whiten",
                "index.rows_per_code", "train.clip_norm", "train.weight_decay", "train.loss_chunk", "seed",
                *(f"tasks.{task}.{key}" for key in ("weight", "rate")
                  for task in ("next_sid", "next_title", "title_sid", "varied_sid", "similar_sid", "distilled_sid"))
                )  # fmt: skip
COMPARED_AT = 10  # places of a ranking
SHARES = ("index.max_collision_rate", "index.min_code_use", "index.min_perplexity", "train.held_out",
          "tasks.distilled_sid.any_item")  # fmt: skip


def validate(config: ConfigDict) -> None:
    """Refuses values that cannot work, each with its key, in the config and in each of its arms.

    Raises:
      UserError: the first such value.
    """
    _validate_values(config)
    for name in config.run.arms:
        if not re.fullmatch(r"[\w-]+", name):
            raise UserError(f"config.run.arms: {name!r} names a folder; use letters, digits, '_' and '-'")
        _refuse_no_settings("run", name, config.run.arms[name])
        try:
            _validate_values(arm_config(config, name))
        except UserError as error:
            raise UserError(f"{error} (in the arm {name!r})") from None
    if config.study.arms:
        _validate_study(config)


def _refuse_no_settings(of: str, name: str, changes: Any) -> None:
    """Refuses an arm that is a single value."""
    if not isinstance(changes, ConfigDict):
        raise UserError(f"config.{of}.arms.{name}={changes!r} must be settings, such as {{'train': {{'epochs': 3.0}}}}")


def _validate_study(config: ConfigDict) -> None:
    study = config.study
    if config.run.arms:
        raise UserError("config.study.arms and config.run.arms are both set; a study has its own arms: use one of them")
    seeds = study.seeds
    if not seeds or len(set(seeds)) < len(seeds) or not all(isinstance(seed, int) and seed >= 0 for seed in seeds):
        raise UserError(f"config.study.seeds={seeds} must be different whole numbers from 0, at least one")
    for name in study.arms:
        if not re.fullmatch(r"[\w-]+", name):
            raise UserError(f"config.study.arms: {name!r} names a folder; use letters, digits, '_' and '-'")
        _refuse_no_settings("study", name, study.arms[name])
        try:
            arm = study_arm_config(config, name)
            _validate_values(arm)
            if arm.eval.split == "valid" and not arm.train.held_out:
                raise UserError(
                    "config.eval.split='valid' is what training selects by; set config.train.held_out, say to 0.1"
                )
        except UserError as error:
            raise UserError(f"{error} (in the arm {name!r})") from None
    if set(study.arms) & set(study.baselines):
        raise UserError(f"config.study: {sorted(set(study.arms) & set(study.baselines))[0]!r} is an arm and a baseline")
    unknown = [name for name in study.curves if name not in study.arms]
    if unknown:
        raise UserError(f"config.study.curves: {unknown[0]!r} is not an arm; the arms are {', '.join(study.arms)}")
    study_comparisons(config)


def study_comparisons(config: ConfigDict) -> list[tuple[str, str]]:
    """The pairs of `config.study.comparisons`, the one that is to be better first.

    Raises:
      UserError: a text that is not "ARM > OTHER", or a name that is neither an arm nor a baseline.
    """
    known = [*config.study.arms, *config.study.baselines]
    pairs = []
    for text in config.study.comparisons:
        names = [name.strip() for name in text.split(">")]
        if len(names) != 2 or names[0] == names[1]:
            raise UserError(f"config.study.comparisons: {text!r} must be 'ARM > OTHER'")
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise UserError(
                    f"config.study.comparisons: {name!r} is neither in config.study.arms nor in "
                    f"config.study.baselines ({', '.join(known)}){hint}"
                )
        pairs.append((names[0], names[1]))
    return pairs


def _validate_values(config: ConfigDict) -> None:
    for key, allowed in CHOICES.items():
        value = _get(config, key)
        if value not in allowed:
            near = difflib.get_close_matches(str(value), allowed, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"config.{key}={value!r} is not one of {', '.join(allowed)}{hint}")
    for key, value in flat(config.to_dict()).items():
        parts = value if isinstance(value, list) else [value]
        if any(isinstance(part, float) and not math.isfinite(part) for part in parts):
            raise UserError(f"config.{key}={value} must be finite")
    for key in POSITIVE:
        if not _get(config, key) > 0:
            raise UserError(f"config.{key}={_get(config, key)} must be above 0")
    for key in NOT_NEGATIVE:
        if not _get(config, key) >= 0:
            raise UserError(f"config.{key}={_get(config, key)} must not be negative")
    for key in SHARES:
        if not 0 <= _get(config, key) <= 1:
            raise UserError(f"config.{key}={_get(config, key)} must lie between 0 and 1")
    if not all(isinstance(size, int) and size >= 1 for size in config.index.sizes):
        raise UserError(
            f"config.index.sizes={config.index.sizes} must name levels of at least 1 code each, or be () for sizes "
            "that fit the number of items"
        )
    for axis, size in config.mesh.items():
        if size < 1 and (size != -1 or list(config.mesh.values()).count(-1) > 1):
            raise UserError(f"config.mesh.{axis}={size} must be above 0, or for one axis -1: the devices that are left")
    unknown = [field for field in config.index.text_fields if field not in TEXT_FIELDS]
    if unknown or not config.index.text_fields:
        raise UserError(f"config.index.text_fields={config.index.text_fields} must be some of {', '.join(TEXT_FIELDS)}")
    if config.index.encoder == "sentence_transformers" and not config.index.model:
        raise UserError("config.index.encoder='sentence_transformers' needs config.index.model, a folder or hub id")
    section(config, "describe", TeacherSettings)  # it refuses what it cannot use
    if config.prepare.source:
        # With polars: only where raw data is read.
        from tsrec_jax.prepare.preparation import PrepareSettings
        from tsrec_jax.prepare.raw import columns_of
        from tsrec_jax.prepare.raw_files import check_encoding

        section(config, "prepare", PrepareSettings)
        columns = columns_of(config.prepare.columns)
        check_encoding(config.prepare.encoding)
        if (columns or config.prepare.encoding) and config.prepare.source != "tables":
            raise UserError("config.prepare.columns and config.prepare.encoding are for config.prepare.source=tables")
    if config.train.wandb_project:
        require_wandb()
    unit = config.train.sequence_length * config.train.accumulation
    if config.train.batch_tokens % unit:
        raise UserError(
            f"config.train.batch_tokens={config.train.batch_tokens} is not a multiple of "
            f"sequence_length x accumulation = {unit}; try {max(config.train.batch_tokens // unit, 1) * unit}"
        )
    if config.train.keep < 2:
        raise UserError(
            f"config.train.keep={config.train.keep} must be 2 or more: if the newest is damaged, one is left"
        )
    if config.train.max_steps == 0 and config.train.epochs == 0:
        raise UserError("config.train.max_steps and config.train.epochs are both 0: nothing would be trained")
    if config.train.select_by == "hr@10" and config.train.valid_beam_rows == 0:
        raise UserError("config.train.select_by='hr@10' needs config.train.valid_beam_rows above 0")
    if config.eval.beams < COMPARED_AT:
        raise UserError(f"config.eval.beams={config.eval.beams}: at least {COMPARED_AT}, since reports compare NDCG@10")
    if config.eval.prior and not config.eval.prior_weights:
        raise UserError("config.eval.prior_weights is empty: name at least one weight of the prior to try")
    if config.eval.score_end and config.eval.normaliser != "vocab":
        raise UserError("config.eval.score_end=True needs config.eval.normaliser='vocab': else the end is certain")
    if config.eval.score_end and config.tasks.next_sid.chains:
        raise UserError("config.eval.score_end=True needs config.tasks.next_sid.chains=False: chains learn no end")
    if config.train.sid_loss == "catalogue" and config.eval.normaliser != "catalogue":
        raise UserError(
            "config.train.sid_loss='catalogue' needs config.eval.normaliser='catalogue': no score of "
            "another token is learned then"
        )
    if config.tasks.distilled_sid.soft and config.train.sid_loss != "catalogue":
        raise UserError(
            "config.tasks.distilled_sid.soft=True needs config.train.sid_loss='catalogue', where several may be right"
        )
    if config.tasks.distilled_sid.throughout and not config.tasks.distilled_sid.soft:
        raise UserError(
            "config.tasks.distilled_sid.throughout=True needs config.tasks.distilled_sid.soft=True: the item that "
            "follows within a history is not what the teacher recommends"
        )
    unknown = [stage for stage in config.run.stages if stage not in STAGES]
    if unknown:
        raise UserError(f"config.run.stages: {unknown[0]!r} is not one of {', '.join(STAGES)}")


def section(config: ConfigDict, name: str, kind: type) -> Any:
    """The values of a config section that a settings dataclass has, as that dataclass."""
    return kind(**{field.name: config[name][field.name] for field in dataclasses.fields(kind)})


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as {prefix + `section.key`: JSON value}."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return found


def section_facts(config: ConfigDict, name: str, without: Sequence[str] = ()) -> dict[str, Any]:
    """The values of a config section as JSON values, named `section.key`."""
    return flat({key: value for key, value in config[name].items() if key not in without}, f"{name}.")


def _get(config: ConfigDict, dotted: str):
    for part in dotted.split("."):
        config = config[part]
    return config


@dataclasses.dataclass(frozen=True)
class TaskMix:
    """Loss weight and rate of every task, in task order."""

    names: tuple[str, ...]
    weights: tuple[float, ...]
    rates: dict[str, float]


def task_mix(config: ConfigDict, names: tuple[str, ...]) -> TaskMix:
    """Reads weights and rates; a task with weight 0 or rate 0 is left out of the data (TS-Align's weight is lambda)."""
    sections = {**config.tasks, "ts_align": config.ts_align}
    weights = tuple(float(sections[name].weight) for name in names)
    rates = {
        name: float(sections[name].rate) for name in names if sections[name].weight > 0 and sections[name].rate > 0
    }
    if not rates:
        raise UserError("every task has weight 0 or rate 0: set config.tasks.next_sid.weight above 0")
    return TaskMix(names, weights, rates)
