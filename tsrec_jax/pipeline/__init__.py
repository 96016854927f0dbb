"""From settings to a finished run: which stages run, in what order, and what is already done.

Read it as a run goes: `stages` (the verbs, and `run`), then `job`, whose `inputs` come from `prepare` or `shop`, from
`index`, `describe` and `pretrain`, and which may go on from an `earlier` run; `train`, from `recommender_parts`,
`batches` and `start`; `evaluate`, by `search`, `fuse` and `before`; `export`. A `study` asks for cells (`study_cell`)
and makes each of them (`study_measure`). `plan` says what a training costs. Below them all lie `workdir`, `provenance`,
`lock`, `remote` and `mesh`.
"""
