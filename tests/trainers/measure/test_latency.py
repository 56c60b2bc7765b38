# SPDX-License-Identifier: Apache-2.0
"""Latencies: the interval is exact, the turns are fair, and the process is left as it was."""

import gc

import numpy as np
import pytest
import scipy.stats
import torch

from runtime.encoder import Encoder
from spaces.profile import LatencyProfile, Runtime
from spaces.student import Dense, EncoderSpec, StaticSpec, StudentSpec, Switch
from trainers.measure.backends.numpy_backend import NumpyStudent
from trainers.measure.backends.runtimes import backend_of
from trainers.measure.latency import Turn, measure_latencies, median_ranks, summarise
from trainers.measure.random_student import random_student, random_weights

PROFILES = {
    Runtime.ENGINE: LatencyProfile(n_tokens=16, batch_size=16),
    Runtime.TORCH: LatencyProfile(runtime=Runtime.TORCH, n_tokens=16),
    Runtime.NUMPY: LatencyProfile(runtime=Runtime.NUMPY, n_tokens=16, batch_size=2),
    Runtime.ONNX: LatencyProfile(runtime=Runtime.ONNX, n_tokens=16),
}
STATIC = StudentSpec(vocabulary_size=100, output_dim=64, static=StaticSpec())


def deep(n_layers: int, feed_forward: Dense | Switch | None = None) -> StudentSpec:
    encoder = EncoderSpec(
        n_layers=n_layers,
        width=64,
        n_heads=4,
        head_width=16,
        feed_forward=feed_forward or Dense(units=128),
        max_tokens=20,
    )
    return StudentSpec(vocabulary_size=100, output_dim=64, encoder=encoder)


@pytest.mark.parametrize("n", [6, 7, 10, 20, 99, 100, 1000, 5001])
def test_the_interval_is_the_tightest_that_holds_the_median_with_95_percent(n: int) -> None:
    low, high = median_ranks(n)
    assert low + high == n - 1
    binomial = scipy.stats.binom(n, 0.5)
    assert 1.0 - 2.0 * binomial.cdf(low) >= 0.95
    assert 1.0 - 2.0 * binomial.cdf(low + 1) < 0.95


@pytest.mark.parametrize(("n", "first", "last"), [(6, 1, 6), (10, 2, 9), (20, 6, 15), (100, 40, 61)])
def test_the_ranks_are_those_of_the_textbooks(n: int, first: int, last: int) -> None:
    assert median_ranks(n) == (first - 1, last - 1)


def test_the_interval_covers_the_median_of_skewed_times() -> None:
    generator = np.random.default_rng(0)
    samples = generator.lognormal(size=(800, 25))
    held = []
    for sample in samples:
        latency = summarise([Turn(call_ms=float(value), disturbed=False) for value in sample])
        held.append(latency.low_ms <= 1.0 <= latency.high_ms)  # the median of this log-normal is 1
    assert 0.94 <= np.mean(held) <= 0.975  # exactly 0.957 for 25 values


def test_disturbed_turns_are_left_out_while_enough_remain() -> None:
    calm = [Turn(call_ms=1.0, disturbed=False)] * 9
    noise = [Turn(call_ms=50.0, disturbed=True)] * 30
    assert summarise(calm + noise).median_ms == 1.0
    assert summarise(calm + noise).n_repeats == 9
    assert summarise(calm[:8] + noise).median_ms == 50.0


@pytest.mark.parametrize("runtime", list(Runtime))
def test_a_deeper_student_takes_longer_and_a_table_hardly_any_time(runtime: Runtime) -> None:
    students = {"two": deep(2), "eight": deep(8), "table": STATIC, "switch": deep(2, Switch(n_experts=4, units=16))}
    latencies = measure_latencies(students, PROFILES[runtime], min_seconds=0.3)
    assert list(latencies) == list(students)
    assert latencies["eight"].median_ms > 2.0 * latencies["two"].median_ms
    assert latencies["table"].median_ms < 0.5 * latencies["two"].median_ms
    for latency in latencies.values():
        assert latency.low_ms <= latency.median_ms <= latency.high_ms
        assert latency.n_repeats >= 9
        assert latency.interval_ms == (latency.low_ms, latency.high_ms)


def test_one_student_under_two_names_takes_the_same_time() -> None:
    student = random_student(backend_of(Runtime.TORCH), deep(4))
    latencies = measure_latencies({"a": student, "b": student}, PROFILES[Runtime.TORCH], min_seconds=0.5)
    assert latencies["a"].median_ms == pytest.approx(latencies["b"].median_ms, rel=0.25)


def test_a_built_student_is_measured_on_the_runtime_that_it_was_built_for() -> None:
    calls = []

    class Watched(Encoder):
        def forward(self, token_ids: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
            calls.append(token_ids.shape)
            return super().forward(token_ids, mask)

    profile = PROFILES[Runtime.TORCH]
    watched = NumpyStudent(Watched(STATIC, random_weights(STATIC)))
    latencies = measure_latencies({"built": watched, "spec": STATIC}, profile, min_seconds=0.0)
    assert list(latencies) == ["built", "spec"]
    assert set(calls) == {(profile.batch_size, profile.n_tokens)}


def test_threads_and_garbage_collection_are_given_back() -> None:
    before = torch.get_num_threads()
    profile = LatencyProfile(n_threads=before + 1, n_tokens=4)
    seen = []

    class Watched(Encoder):
        def forward(self, token_ids: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
            seen.append((torch.get_num_threads(), gc.isenabled()))
            return super().forward(token_ids, mask)

    watched = NumpyStudent(Watched(STATIC, random_weights(STATIC)))
    numpy_profile = LatencyProfile(runtime=Runtime.NUMPY, n_threads=profile.n_threads, n_tokens=4)
    measure_latencies({"static": watched}, numpy_profile, min_seconds=0.0)
    assert set(seen) == {(before + 1, False)}
    assert torch.get_num_threads() == before
    assert gc.isenabled()


def test_the_threads_are_given_back_after_an_error() -> None:
    before = torch.get_num_threads()

    class Broken(Encoder):
        def forward(self, token_ids: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
            raise RuntimeError("out of memory")

    broken = NumpyStudent(Broken(STATIC, random_weights(STATIC)))
    with pytest.raises(RuntimeError, match="out of memory"):
        measure_latencies({"b": broken}, LatencyProfile(runtime=Runtime.NUMPY, n_threads=2), min_seconds=0.0)
    assert torch.get_num_threads() == before
    assert gc.isenabled()


def test_what_cannot_be_measured_is_refused_before_anything_runs() -> None:
    with pytest.raises(ValueError, match="asks for 32 tokens, short takes at most 20; lower n_tokens"):
        measure_latencies({"short": deep(1)}, LatencyProfile(runtime=Runtime.TORCH, n_tokens=32))


def test_no_students_take_no_time() -> None:
    assert measure_latencies({}, PROFILES[Runtime.TORCH]) == {}
