# SPDX-License-Identifier: Apache-2.0
"""How fast the engine embeds, beside the other runtimes that could serve the same student.

Each student has random weights and goes with the same token ids, unpadded, through torch (eager in float32 and
bfloat16, compiled), ONNX Runtime (float32, int8), OpenVINO (bfloat16, int8) and the engine, on one core that the
process is pinned to and on two. Before a runtime is timed its vectors are compared with those of torch in float32. All
runtimes of a case take turns, after a warm-up and without garbage collection; a time is the median over the turns,
for a stream the time of a sentence. The share of the peak counts the operations of products that zero blocks leave,
against the fastest dense int8 product that this run sees a core do with weights in cache. Peers use all that the
processor has, whatever instruction set the engine is held to; one that is not installed or cannot run a student is
left out and named. A Switch student is also compared with the dense student of its active size, both on the engine.
Run it on an idle machine; all of it takes about half an hour:

    python -m benchmarks.engine [--students "6 x 384" static] [--profiles stream] [--threads 1] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # when it is run as a file

from benchmarks.harness.integer_products import int8_peak
from benchmarks.harness.machine import describe_machine
from benchmarks.harness.peers import (
    Peer,
    Runner,
    Subject,
    make_subject,
    missing_packages,
    on_engine,
    prepare,
    vectors_of,
)
from benchmarks.harness.students import Profile, dense_active, profiles, students
from benchmarks.harness.turns import Call, cores, measure_in_turns
from runtime.engine import Engine, instruction_sets
from spaces.cost import cost
from spaces.student import StudentSpec
from trainers.measure.latency import Latency

AGREEMENT = 0.99  # mean cosine to torch in float32 from which a runtime computes the same student
PEAK_SECONDS = 2.0
ENGINE, DENSE_ACTIVE = "engine", "dense active size"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The settings of a run."""

    instruction_sets: list[str]
    """Instruction sets that the engine is measured on."""
    threads: list[int]
    """Numbers of threads, each on a core of its own."""
    peers: list[Peer]
    """The installed peers."""
    seconds: float
    """Seconds of measurement per student, profile and number of threads."""
    peak: float
    """Peak int8 operations per second of one core."""


@dataclass(slots=True)
class Contest:
    """The runtimes of one student, profile and number of threads."""

    runners: dict[str, Runner] = field(default_factory=dict)
    """The calls that are timed in turns, by name."""
    cosines: dict[str, float] = field(default_factory=dict)
    """Mean agreement with torch in float32."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Peers that do not take part, and why."""


def say(text: str) -> None:
    """Print a message to the user."""
    print(text, file=sys.stderr, flush=True)


def measure_student(name: str, spec: StudentSpec, chosen: Sequence[Profile], wanted: Wanted) -> list[dict[str, Any]]:
    """The cases of one student."""
    cases = []
    with TemporaryDirectory() as folder:
        subject = make_subject(spec, Path(folder))
        engines = {each: Engine(spec, subject.weights, instruction_set=each) for each in wanted.instruction_sets}
        dense = dense_active(spec)
        rivals = {} if dense is None else _engines(dense, wanted.instruction_sets, Path(folder))
        for profile in chosen:
            with torch.inference_mode():
                reference = [vectors_of(subject.network(torch.from_numpy(ids)).embeddings) for ids in profile.inputs]
            for n_threads in wanted.threads:
                say(f"{name} | {profile.name} | {n_threads} thread{'s'[: n_threads > 1]}")
                torch.set_num_threads(n_threads)
                with cores(n_threads), torch.inference_mode():
                    contest = _gather(subject, profile, engines, rivals, reference, wanted.peers, n_threads=n_threads)
                    times = measure_in_turns(
                        {runner: _call(contest.runners[runner], profile) for runner in contest.runners},
                        seconds=wanted.seconds,
                        n_threads=n_threads,
                    )
                for each in wanted.instruction_sets:
                    case = _case(name, spec, profile, contest, times, each, n_threads=n_threads, peak=wanted.peak)
                    _say_case(case)
                    cases.append(case)
    return cases


def _engines(spec: StudentSpec, names: Sequence[str], folder: Path) -> dict[str, Engine]:
    weights = make_subject(spec, folder).weights
    return {name: Engine(spec, weights, instruction_set=name) for name in names}


def _gather(
    subject: Subject,
    profile: Profile,
    engines: Mapping[str, Engine],
    rivals: Mapping[str, Engine],
    reference: Sequence[NDArray[np.float32]],
    peers: Sequence[Peer],
    *,
    n_threads: int,
) -> Contest:
    """Every runtime, warmed up on every input and found to compute the student."""
    contest = Contest()
    for each, engine in engines.items():
        name = f"{ENGINE} {each}"
        contest.runners[name] = on_engine(engine, profile.inputs, n_threads=n_threads)
        contest.cosines[name] = _agreement(contest.runners[name], reference)
        if contest.cosines[name] < AGREEMENT:
            say(f"  WARNING: {name} computes another student: mean cosine {contest.cosines[name]:.4f}")
    for each, engine in rivals.items():
        contest.runners[f"{DENSE_ACTIVE} {each}"] = on_engine(engine, profile.inputs, n_threads=n_threads)
    for peer in peers:
        try:
            runner = prepare(peer, subject, profile, n_threads=n_threads)
            contest.cosines[peer] = _agreement(runner, reference)
            if contest.cosines[peer] < AGREEMENT:
                raise ValueError(f"computes another student: mean cosine {contest.cosines[peer]:.4f}")
        except Exception as error:  # any error of a runtime is its reason to be left out
            contest.left_out[peer] = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            say(f"  left out: {peer}: {contest.left_out[peer]}")
        else:
            contest.runners[peer] = runner
    return contest


def _agreement(runner: Runner, reference: Sequence[NDArray[np.float32]]) -> float:
    """Mean cosine over all sentences."""
    cosines = []
    for i, expected in enumerate(reference):
        vectors = vectors_of(runner(i))
        lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
        cosines.append(float(((vectors * expected).sum(axis=1) / lengths).mean()))
    return float(np.mean(cosines))


def _call(runner: Runner, profile: Profile) -> Call:
    """One input after the other, or the whole stream at once."""
    n = len(profile.inputs)
    if profile.fixed:
        return lambda i: runner(i % n)

    def embed_stream(i: int) -> None:
        for sentence in range(n):
            runner(sentence)

    return embed_stream


def _case(
    name: str,
    spec: StudentSpec,
    profile: Profile,
    contest: Contest,
    times: Mapping[str, Latency],
    instruction_set: str,
    *,
    n_threads: int,
    peak: float,
) -> dict[str, Any]:
    """One entry of the document; all times are of one call, or of one sentence of a stream."""
    parts = 1 if profile.fixed else len(profile.inputs)
    medians = {runner: latency.median_ms / parts for runner, latency in times.items()}
    key = f"{ENGINE} {instruction_set}"
    engine_ms, latency = medians[key], times[key]
    peers = {peer.value: medians[peer] for peer in Peer if peer in medians}
    shapes = profile.shapes[:1] if profile.fixed else profile.shapes
    operations = sum(cost(spec, batch_size=batch, n_tokens=tokens).flops for batch, tokens in shapes) / parts
    n_tokens = sum(batch * tokens for batch, tokens in shapes) / parts
    eager_ms, dense_ms = peers.get(Peer.TORCH_EAGER_F32), medians.get(f"{DENSE_ACTIVE} {instruction_set}")
    return {
        "student": name,
        "profile": profile.name,
        "isa": instruction_set,
        "n_threads": n_threads,
        "engine_ms": engine_ms,
        "peers": peers,
        "ratio_best_peer": min(peers.values()) / engine_ms if peers else None,
        "ratio_torch_eager": None if eager_ms is None else eager_ms / engine_ms,
        "share_of_peak": operations / (1e-3 * engine_ms) / (n_threads * peak),
        "engine_interval_ms": [latency.low_ms / parts, latency.high_ms / parts],
        "n_repeats": latency.n_repeats,
        "tokens_per_s": n_tokens / (1e-3 * engine_ms),
        "ratio_dense_active": None if dense_ms is None else engine_ms / dense_ms,
        "cosines": {ENGINE: contest.cosines[key]} | {peer: contest.cosines[peer] for peer in peers},
        "left_out": contest.left_out,
    }


def _say_case(case: Mapping[str, Any]) -> None:
    """The case for people."""
    low, high = case["engine_interval_ms"]
    say(
        f"  engine, {case['isa']}: {case['engine_ms']:.4g} ms ({low:.4g} to {high:.4g}), {case['tokens_per_s']:,.0f} "
        f"tokens/s, {case['share_of_peak']:.1%} of the peak, cosine {case['cosines'][ENGINE]:.4f}"
    )
    if case["ratio_dense_active"] is not None:
        say(f"    {case['ratio_dense_active']:.2f} x the time of its dense active size")
    for peer, milliseconds in sorted(case["peers"].items(), key=lambda item: item[1]):
        ratio = milliseconds / case["engine_ms"]
        say(f"    {peer:18s} {milliseconds:10.4g} ms {ratio:7.2f} x, cosine {case['cosines'][peer]:.4f}")


def matching(names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """The names that contain one of the wanted texts, in their own order."""
    return [name for name in names if any(text in name for text in wanted)]


def main() -> None:
    """Measure and print."""
    usable = [each.name for each in instruction_sets() if each.usable]
    all_students, all_profiles = students(), profiles()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document as the last line")
    parser.add_argument("--students", nargs="+", default=[""], metavar="TEXT", help="those whose names contain it")
    parser.add_argument("--profiles", nargs="+", default=[""], metavar="TEXT", help="those whose names contain it")
    parser.add_argument("--instruction-sets", nargs="+", choices=usable, default=usable[:1])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], metavar="N")
    parser.add_argument("--peers", nargs="*", type=Peer, choices=list(Peer), default=list(Peer))
    parser.add_argument("--seconds", type=float, default=10.0, help="for the turns of one case; at least 7 rounds")
    arguments = parser.parse_args()
    chosen, under = matching(list(all_students), arguments.students), matching(list(all_profiles), arguments.profiles)
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not chosen or not under:
        parser.error(f"nothing is called so; students: {', '.join(all_students)}; profiles: {', '.join(all_profiles)}")
    if not usable or not all(1 <= n <= n_cores for n in arguments.threads):
        parser.error(f"the engine must be built, and threads lie in 1 to {n_cores}, the cores of this process")

    missing = {peer: packages for peer in arguments.peers if (packages := missing_packages(peer))}
    for peer, packages in missing.items():
        say(f"{peer} is left out: {', '.join(packages)} not installed (pip install 'understudy[export,benchmarks]')")
    torch.set_num_threads(1)
    with cores(1):
        peak = int8_peak(seconds=PEAK_SECONDS)
    machine = describe_machine() | {"int8_peak_of_a_core_gops": peak / 1e9}
    machine["profiles"] = {name: all_profiles[name].source for name in under}
    say(f"{machine['name']}; commit {machine['commit']}; {machine['versions']}")
    say(f"int8 peak of a core, measured: {peak / 1e9:,.0f} GOP/s; stream: {all_profiles['stream'].source}")
    wanted = Wanted(
        instruction_sets=arguments.instruction_sets,
        threads=arguments.threads,
        peers=[peer for peer in arguments.peers if peer not in missing],
        seconds=arguments.seconds,
        peak=peak,
    )
    cases = []
    for name in chosen:
        cases += measure_student(name, all_students[name], [all_profiles[profile] for profile in under], wanted)
    if arguments.json:
        print(json.dumps({"machine": machine, "cases": cases}))


if __name__ == "__main__":
    main()
