# SPDX-License-Identifier: Apache-2.0
"""How well the latency predictor predicts architectures that it has not seen.

Random architectures of a space like the quickstart's, beside a teacher of all-MiniLM-L6-v2's shape, are
measured together; the predictor learns from the first and predicts the others. Run it on an idle machine:

    python -m benchmarks.latency_predictor [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace

import numpy as np

from spaces.profile import LatencyProfile, Runtime
from spaces.student import Dense, EncoderSpec, FeedForward, Pooling, Projection, StaticSpec, StudentSpec, Switch
from trainers.measure.calibration import calibrate
from trainers.measure.predictor import LatencyPredictor

TARGET_ERROR_PERCENT = 10.0
TARGET_RANK_CORRELATION = 0.95

TEACHER = StudentSpec(
    vocabulary_size=30522,
    output_dim=384,
    encoder=EncoderSpec(
        n_layers=6, width=384, n_heads=12, head_width=32, feed_forward=Dense(units=1536), max_tokens=512
    ),
)


def random_architecture(generator: np.random.Generator) -> StudentSpec:
    """A student of depth 0 to 6 with every dimension that matters to latency drawn at random."""

    def draw(*options: int) -> int:
        return options[int(generator.integers(len(options)))]

    def chance(probability: float) -> bool:
        return bool(generator.random() < probability)

    n_layers = draw(0, 1, 2, 3, 4, 5, 6)
    static = None
    if n_layers == 0 or chance(0.5):
        static = StaticSpec(embedding_dim=None if chance(0.25) else draw(64, 128, 256))
    if n_layers == 0:
        return replace(TEACHER, encoder=None, static=static)
    width = draw(96, 128, 192, 256, 288, 384)
    n_heads = draw(*(n for n in (2, 3, 4, 6, 8, 12) if width % n == 0))
    feed_forward: FeedForward = Dense(units=draw(64, 128, 256, 512, 768, 1024, 1536))
    if chance(0.3):
        feed_forward = Switch(n_experts=draw(2, 4, 8), units=draw(64, 128, 256, 512, 768))
    embedding_dim = None if chance(0.5) else draw(64, 128)
    encoder = EncoderSpec(
        n_layers=n_layers,
        width=width,
        n_heads=n_heads,
        head_width=width // n_heads if chance(0.7) else max(8, width // n_heads // 2),
        feed_forward=feed_forward,
        max_tokens=512,
        embedding_dim=embedding_dim if embedding_dim is not None and embedding_dim < width else None,
        pooling=Pooling.CLS if chance(0.3) else Pooling.MEAN,
        projection=None if width == TEACHER.output_dim else Projection.LINEAR,
    )
    return replace(TEACHER, encoder=encoder, static=static)


def say(text: str) -> None:
    """Print for people."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Calibrate, predict, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document as the last line")
    parser.add_argument("--calibrated", type=int, default=32, help="architectures that the predictor learns from")
    parser.add_argument("--unseen", type=int, default=16, help="architectures that it predicts")
    parser.add_argument("--seconds", type=float, default=48.0, help="time for all measurements")
    parser.add_argument("--runtime", type=Runtime, choices=list(Runtime), default=Runtime.TORCH)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.calibrated < 3 or arguments.unseen < 3:
        parser.error("--calibrated and --unseen must be at least 3")

    profile = LatencyProfile(
        runtime=arguments.runtime,
        batch_size=arguments.batch_size,
        n_tokens=arguments.tokens,
        n_threads=arguments.threads,
    )
    generator = np.random.default_rng(arguments.seed)
    specs: dict[StudentSpec, None] = {}  # an ordered set: static students are few, and none may be on both sides
    while len(specs) < arguments.calibrated + arguments.unseen:
        specs[random_architecture(generator)] = None
    start = time.monotonic()
    measured = calibrate(
        TEACHER,
        list(specs),
        profile,
        seconds=arguments.seconds,
        seed=arguments.seed,
        progress=lambda done, total: say(f"  {done} of {total} architectures measured"),
    )
    seconds = time.monotonic() - start
    seen, unseen = measured.points[: 1 + arguments.calibrated], measured.points[1 + arguments.calibrated :]
    predictor = LatencyPredictor.fit(replace(measured, points=seen))
    error, cross_validated = predictor.error_on(unseen), predictor.cross_validated()
    met = (
        error.median_absolute_percentage_error <= TARGET_ERROR_PERCENT
        and error.rank_correlation >= TARGET_RANK_CORRELATION
    )

    say(f"{measured.machine}; {profile}; teacher {measured.teacher_latency_ms:.2f} ms; {seconds:.0f} s")
    say("unseen architectures:  depth  measured ms  predicted ms")
    for point in sorted(unseen, key=lambda point: point.latency_ms):
        say(f"{point.spec.n_layers:28d} {point.latency_ms:12.3f} {predictor.predict(point.spec):13.3f}")
    for name, result in (("unseen", error), ("cross-validated", cross_validated)):
        say(
            f"{name}: median absolute error {result.median_absolute_percentage_error:.1f}%, "
            f"rank correlation {result.rank_correlation:.4f} on {result.n} architectures"
        )
    targets = f"error <= {TARGET_ERROR_PERCENT:.0f}%, correlation >= {TARGET_RANK_CORRELATION}"
    say(f"targets ({targets}): {'met' if met else 'MISSED'}")
    if arguments.json:
        document = {
            "benchmark": "latency_predictor",
            "profile": profile.to_json(),
            "machine": measured.machine,
            "seed": arguments.seed,
            "n_calibrated": arguments.calibrated,
            "unseen": error.to_json(),
            "cross_validated": cross_validated.to_json(),
            "teacher_latency_ms": measured.teacher_latency_ms,
            "target_error_percent": TARGET_ERROR_PERCENT,
            "target_rank_correlation": TARGET_RANK_CORRELATION,
            "met": met,
            "seconds": seconds,
        }
        print(json.dumps(document))


if __name__ == "__main__":
    main()
