"""What a step of the second stage computes and holds: the arithmetic of `accounting` for prompts with candidates."""

from __future__ import annotations

import dataclasses

from tsrec_jax.models.config import ModelConfig
from tsrec_jax.planning.accounting import FLOAT32, MeshShape, StepShape, parameter_bytes, step_flops, step_memory
from tsrec_jax.planning.search_flops import search_flops
from tsrec_jax.rl.settings import RlSettings

SCORES = 3  # arrays of scores of a prefix's children: logits, log-probabilities, and the gradient of either


@dataclasses.dataclass(frozen=True)
class SecondStageShape:
    """One optimiser step of the second stage.

    Attributes:
      step: a training step with the same freezing, compute type and rematerialisation.
      settings: settings of the second stage.
      length: number of tokens of a prompt, padding included.
      codes: number of codes on each level of a SID.
      widths: for each level, how many codes the search reads after a prefix.
    """

    step: StepShape
    settings: RlSettings
    length: int
    codes: tuple[int, ...]
    widths: tuple[int, ...]

    @property
    def trunk(self) -> StepShape:
        """The prompts and their candidates as training rows without a loss of their own."""
        return dataclasses.replace(
            self.step,
            rows=self.settings.prompts // self.settings.accumulation,
            sequence_length=self.length + self.settings.candidates * (len(self.codes) - 1),
            accumulation=self.settings.accumulation,
            loss_slots=0,
            loss_chunk=0,
            rows_per_group=1,
            sid_tokens=0,
            attention="xla",
            dense=None,
        )

    @property
    def scored(self) -> int:
        """Number of codes scored for a prompt: the first level's once, each further level's for every candidate."""
        return self.codes[0] + self.settings.candidates * sum(self.codes[1:])

    def flops(self, config: ModelConfig) -> float:
        """Model FLOPs over all devices: the update and, if they are needed, the search and the starting model."""
        wanted = self.settings
        head = 2 * wanted.prompts * self.scored * config.d_model
        forward = step_flops(config, dataclasses.replace(self.trunk, freeze="none")).model / 3 + head
        update = step_flops(config, self.trunk).model + 3 * head
        if not wanted.compares:
            return update
        search = wanted.prompts * search_flops(
            config,
            prompt=self.length,
            shared=0,
            codes=self.codes,
            widths=self.widths,
            beams=wanted.group,
            whole_vocabulary=False,
        )
        return search + update + (forward if wanted.keeps_reference else 0)

    def reference_bytes(self, config: ModelConfig, mesh: MeshShape) -> float:
        """Bytes of the starting model on one device, in the compute type; 0 if it is not kept."""
        if not self.settings.keeps_reference:
            return 0
        return parameter_bytes(config, mesh) / (2 if self.step.dtype == "bfloat16" else 1)

    def memory(self, config: ModelConfig, mesh: MeshShape) -> float:
        """Bytes of one device at the peak of the update, the starting model included.

        Candidates are proposed for the whole step before its first update, and the starting model scores them then.
        """
        wanted, slot = self.settings, self.scored * FLOAT32 / (mesh.data * mesh.fsdp)
        scores = SCORES * self.trunk.rows * slot
        if wanted.accumulation > 1 and wanted.keeps_reference:
            scores += wanted.prompts * slot
        return step_memory(config, self.trunk, mesh).total + scores + self.reference_bytes(config, mesh)
