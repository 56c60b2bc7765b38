# SPDX-License-Identifier: Apache-2.0
"""How fast students learn: training tokens a second as a share of the machine's bf16 matmul rate.

Three questions, answered in one run on one core, measurements taking turns so that drift hits all alike:
what share of the machine's matrix rate our loop reaches with a 3 x 384 student, and what a plain Hugging Face loop
(autocast, AdamW, the same batches) reaches; what a step of a 1-layer student costs with the teacher cached,
against the same step with a teacher in the loop; and what share of a step goes into fetching its batch.
The teachers have random weights of the shapes named; their values do not change the time. Run it on an idle machine:

    python -m benchmarks.distill_throughput [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertModel

from spaces.cost import cost
from spaces.recipe import LossWeights, RecipeSpec
from spaces.student import Dense, EncoderSpec, StudentSpec
from trainers.distil.loop import Distillation, DistillationData
from trainers.distil.objective import BatchTargets
from trainers.modules.build import build
from trainers.modules.device import CPU
from trainers.teacher.cache import Targets
from trainers.text.batches import make_batch

BATCH, TOKENS, VOCABULARY = 64, 24, 30522
TRAINING_PASSES = 3  # forward, and twice that backward
MINILM = EncoderSpec(n_layers=6, width=384, n_heads=12, head_width=32, feed_forward=Dense(units=1536), max_tokens=512)
BERT_BASE = EncoderSpec(
    n_layers=12, width=768, n_heads=12, head_width=64, feed_forward=Dense(units=3072), max_tokens=512
)


def student_of(encoder: EncoderSpec, n_layers: int) -> StudentSpec:
    """A student with some of an encoder's layers."""
    return StudentSpec(
        vocabulary_size=VOCABULARY, output_dim=encoder.width, encoder=replace(encoder, n_layers=n_layers)
    )


def random_data(output_dim: int, n_sentences: int = 6400) -> DistillationData:
    """Sentences of equal length with token frequencies like a language's, and random targets."""
    generator = np.random.default_rng(0)
    token_ids = np.minimum(generator.zipf(1.3, n_sentences * TOKENS), VOCABULARY - 1).astype(np.int32)
    offsets = np.arange(n_sentences + 1, dtype=np.int64) * TOKENS
    embeddings = generator.standard_normal((n_sentences, output_dim)).astype(np.float16)
    return DistillationData(
        token_ids=token_ids,
        offsets=offsets,
        targets=Targets(embeddings=embeddings),
        held_out_token_ids=token_ids[: 100 * TOKENS],
        held_out_offsets=offsets[:101],
        held_out_embeddings=embeddings[:100].astype(np.float32),
    )


def our_step(spec: StudentSpec, data: DistillationData) -> Callable[[], object]:
    """One step of our loop."""
    recipe = RecipeSpec(losses=LossWeights(), batch_tokens=BATCH * TOKENS, warmup_tokens=0)
    distillation = Distillation(build(spec, seed=0), recipe, data, seed=0)
    return lambda: distillation.advance(distillation.n_tokens + 1)


def hugging_face(encoder: EncoderSpec, n_layers: int) -> BertModel:
    """The same architecture in transformers, with its default attention."""
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=encoder.width,
        num_hidden_layers=n_layers,
        num_attention_heads=encoder.n_heads,
        intermediate_size=encoder.feed_forward.units,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertModel(config, add_pooling_layer=False)


def hugging_face_step(data: DistillationData) -> Callable[[], object]:
    """One step of a plain loop: autocast, padded batches with masks, dense AdamW over all weights."""
    model = hugging_face(MINILM, 3).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-4)
    token_ids, target = batch_of(data)
    mask = torch.ones_like(token_ids)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model(input_ids=token_ids, attention_mask=mask).last_hidden_state
        vectors = hidden.float().mean(dim=1)
        loss = 1.0 - torch.nn.functional.cosine_similarity(vectors, target).mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def teacher_pass(encoder: EncoderSpec, data: DistillationData) -> Callable[[], object]:
    """A teacher's forward pass in the loop, as a plain loop does it: transformers under autocast."""
    model = hugging_face(encoder, encoder.n_layers).eval()
    token_ids, _ = batch_of(data)
    mask = torch.ones_like(token_ids)

    def step() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            model(input_ids=token_ids, attention_mask=mask).last_hidden_state.mean(dim=1)

    return step


def our_teacher_pass(encoder: EncoderSpec, data: DistillationData) -> Callable[[], object]:
    """A teacher's forward pass in the loop by our own modules, in pure bfloat16: the fastest that we know."""
    model = build(student_of(encoder, encoder.n_layers), seed=0).to(torch.bfloat16)
    token_ids, _ = batch_of(data)

    def step() -> None:
        with torch.inference_mode():
            model(token_ids)

    return step


def batch_of(data: DistillationData) -> tuple[torch.Tensor, torch.Tensor]:
    """The first batch as torch tensors."""
    token_ids = torch.from_numpy(data.token_ids[: BATCH * TOKENS].astype(np.int64)).view(BATCH, TOKENS)
    return token_ids, torch.from_numpy(data.targets.embeddings[:BATCH].astype(np.float32))


def fetch(data: DistillationData) -> Callable[[], object]:
    """What a step does before it computes: cut the batch out of the text and look its targets up."""
    sentences = np.random.default_rng(1).permutation(len(data.offsets) - 1)[:BATCH]

    def step() -> None:
        batch = make_batch(sentences, data.token_ids, data.offsets)
        BatchTargets.of(data.targets, batch, data.offsets, LossWeights(), device=CPU)

    return step


def matrix_rates() -> dict[str, tuple[Callable[[], object], float]]:
    """Products of a step's shapes in bfloat16, with their operations; the fastest is the machine's rate."""
    rates: dict[str, tuple[Callable[[], object], float]] = {}
    for rows, inputs, outputs in ((1536, 384, 1536), (1536, 1536, 384), (2048, 2048, 2048)):
        x = torch.randn(rows, inputs).bfloat16()
        weight = torch.randn(outputs, inputs).bfloat16()

        def product(x: torch.Tensor = x, weight: torch.Tensor = weight) -> object:
            with torch.inference_mode():
                return torch.nn.functional.linear(x, weight)

        rates[f"{rows} x {inputs} x {outputs}"] = (product, 2.0 * rows * inputs * outputs)
    return rates


def measure_in_turns(actions: dict[str, Callable[[], object]], *, seconds: float) -> dict[str, float]:
    """Median seconds of each action; every round runs all of them."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for action in actions.values():
        for _ in range(3):
            action()
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or len(next(iter(times.values()))) < 5:
        for name, action in actions.items():
            begin = time.perf_counter()
            action()
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


def measure(*, seconds: float) -> dict[str, Any]:
    """All numbers of this benchmark, as a JSON object."""
    torch.set_num_threads(1)
    data, wide = random_data(384), random_data(768)
    products = matrix_rates()
    actions: dict[str, Callable[[], object]] = {name: product for name, (product, _) in products.items()}
    actions |= {
        "ours 3 x 384": our_step(student_of(MINILM, 3), data),
        "hugging face 3 x 384": hugging_face_step(data),
        "ours 1 x 384": our_step(student_of(MINILM, 1), data),
        "teacher 6 x 384": teacher_pass(MINILM, data),
        "teacher 6 x 384, our modules": our_teacher_pass(MINILM, data),
        "teacher 12 x 768": teacher_pass(BERT_BASE, wide),
        "teacher 12 x 768, our modules": our_teacher_pass(BERT_BASE, wide),
        "fetch a batch": fetch(data),
    }
    medians = measure_in_turns(actions, seconds=seconds)
    rate = max(operations / medians[name] for name, (_, operations) in products.items())
    flops = TRAINING_PASSES * cost(student_of(MINILM, 3), batch_size=BATCH, n_tokens=TOKENS).flops
    step = medians["ours 1 x 384"]
    return {
        "matmul_rate_tflops": rate / 1e12,
        "batch": [BATCH, TOKENS],
        "tokens_per_s": {
            "ours": BATCH * TOKENS / medians["ours 3 x 384"],
            "hugging_face": BATCH * TOKENS / medians["hugging face 3 x 384"],
        },
        "share_of_matmul_rate": {
            "ours": flops / medians["ours 3 x 384"] / rate,
            "hugging_face": flops / medians["hugging face 3 x 384"] / rate,
        },
        "cached_step_over_step_with_teacher": {
            name.removeprefix("teacher "): step / (step + seconds)
            for name, seconds in medians.items()
            if name.startswith("teacher ")
        },
        "fetch_share_of_a_step": medians["fetch a batch"] / step,
        "medians_ms": {name: 1e3 * value for name, value in medians.items()},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document as the last line")
    parser.add_argument("--seconds", type=float, default=60.0, help="time for all measurements")
    arguments = parser.parse_args()
    result = measure(seconds=arguments.seconds)

    share, cached = result["share_of_matmul_rate"], result["cached_step_over_step_with_teacher"]
    print(f"bf16 matmul rate of one core: {result['matmul_rate_tflops']:.2f} TFLOP/s", file=sys.stderr)
    print(f"3 x 384 student, {BATCH} sentences of {TOKENS} tokens:", file=sys.stderr)
    for name in ("ours", "hugging_face"):
        rate = result["tokens_per_s"][name]
        print(f"  {name:13s} {rate:8,.0f} tokens/s, {share[name]:.1%} of the rate", file=sys.stderr)
    print("a 1-layer student's step with cached teacher, over the step with it in the loop:", file=sys.stderr)
    for name, value in cached.items():
        print(f"  {name:24s} {value:.1%}", file=sys.stderr)
    print(f"fetching a batch: {result['fetch_share_of_a_step']:.2%} of that step", file=sys.stderr)
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
