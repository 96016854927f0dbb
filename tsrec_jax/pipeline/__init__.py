"""From settings to a finished run: which stages run, in what order, and what is already done.

Read it in the order of a run: `stages` (the verbs, and `run`), then `job`, whose `inputs` come from `prepare` or
`shop`, from `index`, `describe` and `pretrain`, and which may continue from an `earlier` run; then `train`, with
`recommender_parts`, `batches` and `start`; `evaluate`, with `search`, `fuse` and `before`; and `export`. A `study`
requests cells (`study_cell`) and makes each of them (`study_measure`). `plan` says what a training costs. All of them
build on `workdir`, `provenance`, `lock`, `remote` and `mesh`.
"""
