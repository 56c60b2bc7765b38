# SPDX-License-Identifier: Apache-2.0
"""The distillation loop: one student, one recipe, a cached teacher.

Master weights and optimiser state are float32; the matrices are computed on a working copy in the
recipe's precision. Only the rows of the token tables that a batch touches take part in its step. What is
evaluated and saved is a running average of the weights. A run can be advanced to any number of tokens, evaluated,
saved, and continued bit for bit; the learning rate falls only once `begin_decay` says where the run ends.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from runtime.atomic import read_json, write_json
from spaces.recipe import Precision, RecipeSpec
from trainers.distil.objective import BatchTargets, distillation_loss
from trainers.distil.prune import BlockPruner
from trainers.distil.replicas import Replica
from trainers.distil.row_adam import RowAdam
from trainers.measure.fidelity import Fidelity, measure_fidelity
from trainers.modules.device import CPU, device_of, to_tensor
from trainers.modules.embed import embed_tokens
from trainers.modules.student import Student
from trainers.teacher.cache import Targets
from trainers.text.batches import make_batch, stream

TABLES = ("embeddings.tokens", "static.tokens")
AVERAGE_EVERY_STEPS = 8  # an update of all weights; doing it every step costs a tenth of the time
ADAM_BETAS = (0.9, 0.98)


class NotFiniteError(ArithmeticError):
    """The loss or a vector is infinite or not a number: the training has diverged, or began with such weights."""


class LostCheckpointError(Exception):
    """The files of a checkpoint are missing or cut off, as a power failure may leave them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationData:
    """The inputs of a distillation, as NumPy arrays, which Ray shares between processes without copies."""

    token_ids: np.ndarray
    """Int32 [n_tokens]: the training sentences' tokens, end to end."""
    offsets: np.ndarray
    """Int64 [n_sentences + 1]: where each sentence begins."""
    targets: Targets
    """The teacher's outputs for these sentences."""
    held_out_token_ids: np.ndarray
    """Int32: the held-out sentences' tokens."""
    held_out_offsets: np.ndarray
    """Int64 [n_held_out + 1]."""
    held_out_embeddings: np.ndarray
    """Float32 [n_held_out, dim]: the teacher's vectors of the held-out sentences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a distillation has come."""

    n_tokens: int
    """Training tokens in total."""
    n_steps: int
    """Optimiser steps in total."""
    loss: float
    """Mean loss since the last report."""
    seconds: float
    """Wall time since the last report."""
    tokens_per_s: float
    """Training tokens a second since the last report."""


class Distillation:
    """The training state of one student, on the device of its parameters.

    `student` is trained in place and holds the float32 master weights.
    """

    def __init__(
        self,
        student: Student,
        recipe: RecipeSpec,
        data: DistillationData,
        *,
        seed: int,
        sparsity: float = 0.0,
        replica: Replica | None = None,
    ) -> None:
        self.student = student.train()
        self.device = device_of(student)
        self.recipe = recipe
        self.data = data
        self.seed = seed
        self.replica = replica or Replica(rank=0, n_replicas=1, group=None)
        self.n_tokens = self.n_steps = self.n_averaged = 0
        self.epoch = self.position = 0
        self.decay: tuple[int, int] | None = None
        self._untrained: Fidelity | None = None

        parameters = dict(student.named_parameters())
        self.tables = {name: RowAdam(parameters[name].detach()) for name in TABLES if name in parameters}
        self.masters = {name: parameter for name, parameter in parameters.items() if name not in TABLES}
        self.working = _working_copy(student, recipe.precision)
        self.working_parameters = dict(self.working.named_parameters())
        self.optimiser = (
            torch.optim.Adam(list(self.masters.values()), betas=ADAM_BETAS, fused=True)  # its rate is set at each step
            if self.masters
            else None
        )
        self.pruner = (
            BlockPruner(student, sparsity=sparsity, pruning_tokens=recipe.pruning_tokens) if sparsity > 0.0 else None
        )
        self.average = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        self.batches = self._stream()

    def untrained(self) -> Fidelity:
        """Fidelity before training, of a sparse student at its full sparsity; measured once, and kept in checkpoints.

        Raises ValueError if it was not measured before training began.
        """
        if self._untrained is None:
            if self.n_steps:
                raise ValueError("the fidelity before training can be measured before the first step only")
            student = self.averaged()
            if self.pruner is not None:
                self.pruner.prune_by_magnitude(dict(student.named_parameters()))
            self._untrained = self._evaluate(student)
        return self._untrained

    @property
    def peak_learning_rate(self) -> float:
        """Peak rate of matrices and norms; a relative one needs the error before training, which is measured here."""
        if self.recipe.learning_rate is not None:
            return self.recipe.learning_rate
        return self.recipe.peak_learning_rate(1.0 - self.untrained().cosine)

    def advance(self, n_tokens: int) -> Progress:
        """Train up to `n_tokens` tokens in total. Raises NotFiniteError if the loss is not finite."""
        start_time, start_tokens, losses = time.perf_counter(), self.n_tokens, []
        while self.n_tokens < n_tokens:
            self.epoch, position, sentences = next(self.batches)
            losses.append(self._step(sentences))
            self.position = position + 1
        seconds = time.perf_counter() - start_time
        return Progress(
            n_tokens=self.n_tokens,
            n_steps=self.n_steps,
            loss=float(np.mean(losses)) if losses else math.nan,
            seconds=seconds,
            tokens_per_s=(self.n_tokens - start_tokens) / max(seconds, 1e-9),
        )

    def begin_decay(self, from_tokens: int, to_tokens: int) -> None:
        """Decay the learning rate linearly, from its peak at `from_tokens` to 0 at `to_tokens`."""
        if not 0 <= from_tokens < to_tokens:
            raise ValueError(f"a decay must begin before it ends, got {from_tokens} to {to_tokens} tokens")
        self.decay = (from_tokens, to_tokens)

    def learning_rate_factor(self) -> float:
        """The share of the peak learning rates that the next step uses."""
        factor = min(1.0, (self.n_tokens + 1) / max(1, self.recipe.warmup_tokens))
        if self.decay is not None:
            from_tokens, to_tokens = self.decay
            factor *= min(1.0, max(0.0, (to_tokens - self.n_tokens) / (to_tokens - from_tokens)))
        return factor

    def averaged(self) -> Student:
        """A copy of the student that holds the averaged weights, in evaluation mode."""
        student = copy.deepcopy(self.student).eval()
        with torch.no_grad():
            for name, parameter in student.named_parameters():
                parameter.copy_(self.average[name])
            if self.pruner is not None:
                self.pruner.apply(dict(student.named_parameters()))
        return student

    def evaluate(self) -> Fidelity:
        """Fidelity of the averaged student on the held-out text, computed in the recipe's precision.

        Raises NotFiniteError if the student's vectors are not finite.
        """
        return self._evaluate(self.averaged())

    def _evaluate(self, student: Student) -> Fidelity:
        data = self.data
        vectors = embed_tokens(student, data.held_out_token_ids, data.held_out_offsets, precision=self.recipe.precision)
        n_bad = int((~np.isfinite(vectors).all(axis=1)).sum())
        if n_bad:
            raise NotFiniteError(f"{n_bad} of {len(vectors)} vectors are not finite {self._when_and_remedy()}")
        return measure_fidelity(vectors, data.held_out_embeddings)

    def _when_and_remedy(self) -> str:
        if self.n_steps:
            return f"after {self.n_steps} step{'s' if self.n_steps > 1 else ''}; lower the learning rate"
        return "before the first step, with inherited weights; set the precision to float32, or choose another teacher"

    def save(self, folder: Path) -> None:
        """Write a checkpoint that `restore` continues bit for bit; an earlier one is replaced atomically."""
        folder.mkdir(parents=True, exist_ok=True)
        file = f"distillation-{self.n_steps}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in self._tensors().items()}, folder / file)
        counters = {
            "file": file,
            "seed": self.seed,
            "recipe": self.recipe.to_json(),
            "n_tokens": self.n_tokens,
            "n_steps": self.n_steps,
            "n_averaged": self.n_averaged,
            "epoch": self.epoch,
            "position": self.position,
            "decay": self.decay,
            "untrained": None if self._untrained is None else self._untrained.to_json(),
        }
        write_json(folder / "distillation.json", counters, durable=False)
        for old in folder.glob("distillation-*.safetensors"):
            if old.name != file:
                old.unlink()

    def restore(self, folder: Path) -> None:
        """Continue a saved run of the same student, recipe and data.

        Raises ValueError if it is another's, LostCheckpointError if the checkpoint is incomplete.
        """
        counters = read_json(folder / "distillation.json")
        if counters is None:
            raise LostCheckpointError(f"{folder} holds no readable distillation.json")
        if RecipeSpec.from_json(counters["recipe"]) != self.recipe or counters["seed"] != self.seed:
            raise ValueError(f"{folder} holds a run of another recipe or seed; restore it with its own")
        self.n_tokens, self.n_steps = counters["n_tokens"], counters["n_steps"]
        self.n_averaged, self.epoch, self.position = counters["n_averaged"], counters["epoch"], counters["position"]
        self.decay = None if counters["decay"] is None else (counters["decay"][0], counters["decay"][1])
        untrained = counters.get("untrained")
        self._untrained = None if untrained is None else Fidelity.from_json(untrained)
        try:
            weights = safe_open(folder / counters["file"], framework="pt", device=str(CPU))
        except (FileNotFoundError, SafetensorError) as error:
            raise LostCheckpointError(f"{folder / counters['file']} is not whole: {error}") from error
        with weights as file:  # one tensor at a time, to save memory
            self._load(file)
        self._refresh_working_copy()
        self.batches = self._stream()

    @torch.no_grad()
    def _load(self, saved: safe_open) -> None:
        def under(prefix: str) -> dict[str, Tensor]:
            names = [name for name in saved.keys() if name.startswith(prefix)]  # noqa: SIM118
            return {name.removeprefix(prefix): saved.get_tensor(name).to(self.device) for name in names}

        for name, parameter in self.student.named_parameters():
            parameter.copy_(saved.get_tensor(f"weight.{name}"))
            self.average[name].copy_(saved.get_tensor(f"average.{name}"))
        for name, table in self.tables.items():
            table.load_state(under(f"table.{name}."))
        if self.pruner is not None:
            self.pruner.load_state(under("pruner."))
        if self.optimiser is not None and self.n_steps:
            for name, master in self.masters.items():
                self.optimiser.state[master] = under(f"adam.{name}.")

    def _stream(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """The batches from the present position on."""
        lengths, size = np.diff(self.data.offsets), self.recipe.batch_tokens
        return stream(lengths, batch_tokens=size, seed=self.seed, epoch=self.epoch, position=self.position)

    def _step(self, sentences: np.ndarray) -> float:
        """One optimiser step over a batch; this replica computes its share. Returns the loss."""
        data, recipe, replica, device = self.data, self.recipe, self.replica, self.device
        whole = make_batch(sentences, data.token_ids, data.offsets)
        touched, inverse = np.unique(whole.token_ids, return_inverse=True)
        share = replica.share(len(sentences))
        index = to_tensor(inverse.reshape(whole.token_ids.shape)[share], device)
        mask = None if whole.mask is None else to_tensor(whole.mask[share], device)
        rows = to_tensor(touched, device)
        leaves = {name: table.table[rows].requires_grad_() for name, table in self.tables.items()}

        token_rows = leaves.get("embeddings.tokens")
        output = self.working.encode(
            index,
            mask,
            token_rows=None if token_rows is None else token_rows.to(_dtype(recipe.precision)),
            static_rows=leaves.get("static.tokens"),
        )
        targets = BatchTargets.of(data.targets, whole, data.offsets, recipe.losses, device=device)
        loss = distillation_loss(
            output,
            mask,
            targets,
            recipe,
            share=share,
            replica=replica,
            imitates_length=not self.student.normalise,
        )
        loss.backward()

        gradients = {name: self._gradient(name) for name in self.masters}
        mean_loss = loss.detach().reshape(1).clone()
        replica.average_gradients(
            [mean_loss, *gradients.values(), *(leaf.grad for leaf in leaves.values() if leaf.grad is not None)]
        )
        value = mean_loss.item()
        if not math.isfinite(value):  # seen by all replicas alike, so that none waits for another
            raise NotFiniteError(f"the loss is {value} {self._when_and_remedy()}")
        self._update(gradients, rows, leaves)
        self.n_tokens += whole.n_tokens
        self.n_steps += 1
        if self.pruner is not None:
            self.pruner.update(gradients, n_tokens=self.n_tokens)
        if self.n_steps % AVERAGE_EVERY_STEPS == 0:
            self._average()
        self._refresh_working_copy()
        return value

    def _gradient(self, name: str) -> Tensor:
        gradient = self.working_parameters[name].grad
        if gradient is None:  # an expert that no token chose, the last layer's unused parts
            return torch.zeros_like(self.masters[name])
        self.working_parameters[name].grad = None
        return gradient.float()

    def _update(self, gradients: dict[str, Tensor], rows: Tensor, leaves: dict[str, Tensor]) -> None:
        factor = self.learning_rate_factor()
        if self.optimiser is not None:
            for group in self.optimiser.param_groups:
                group["lr"] = self.peak_learning_rate * factor
            for name, master in self.masters.items():
                master.grad = gradients[name]
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
        for name, leaf in leaves.items():
            assert leaf.grad is not None
            self.tables[name].step(rows, leaf.grad, learning_rate=self.recipe.table_learning_rate * factor)

    @torch.no_grad()
    def _average(self) -> None:
        """Update the moving averages; their decay is smaller in the first steps, so that the start is forgotten."""
        decay = min(self.recipe.average_decay**AVERAGE_EVERY_STEPS, (1 + self.n_averaged) / (10 + self.n_averaged))
        for name, parameter in self.student.named_parameters():
            self.average[name].lerp_(parameter, 1.0 - decay)
        self.n_averaged += 1

    @torch.no_grad()
    def _refresh_working_copy(self) -> None:
        if self.working is not self.student:
            for name, master in self.masters.items():
                self.working_parameters[name].copy_(master)

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"weight.{name}": parameter.detach() for name, parameter in self.student.named_parameters()}
        tensors |= {f"average.{name}": average for name, average in self.average.items()}
        for name, table in self.tables.items():
            tensors |= {f"table.{name}.{key}": value for key, value in table.state().items()}
        if self.pruner is not None:
            tensors |= {f"pruner.{key}": value for key, value in self.pruner.state().items()}
        if self.optimiser is not None:
            for name, parameter in self.masters.items():
                tensors |= {f"adam.{name}.{key}": value for key, value in self.optimiser.state[parameter].items()}
        return tensors


def _working_copy(student: Student, precision: Precision) -> Student:
    """The network that computes: the student itself in float32, else a copy without tables in the precision's type."""
    if precision is Precision.FLOAT32:
        return student
    left_out = {
        id(parameter): nn.Parameter(torch.empty(0, device=parameter.device))
        for name, parameter in student.named_parameters()
        if name in TABLES
    }
    return copy.deepcopy(student, memo=left_out).to(_dtype(precision)).train()


def _dtype(precision: Precision) -> torch.dtype:
    return torch.bfloat16 if precision is Precision.BFLOAT16 else torch.float32
