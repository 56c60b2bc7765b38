# SPDX-License-Identifier: Apache-2.0
"""What dynamic batching gives: requests a second and their latency, with batches and without.

Two services of one student run as processes of their own, one that batches and one whose batches are single sentences.
Clients that ask for one sentence at a time, each on its own connection, load them by turns, so that drift hits both
alike; beside them stands the student called directly. Clients share the machine with the service, as small services'
clients often do. Without FOLDER the student is 3 x 384 with random weights, which do not change the time. Run it on
an idle machine:

    python -m benchmarks.service [FOLDER] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from runtime import load, write_folder
from runtime.folder import expected_tensors
from spaces.student import Dense, EncoderSpec, StudentSpec

VOCABULARY, N_WORDS = 30522, 24
WITH, WITHOUT = "batching", "single sentences"
BATCHES = {WITH: 64, WITHOUT: 1}


def write_student(folder: Path) -> Path:
    """A 3 x 384 student with random weights and a tokenizer of numbered words."""
    encoder = EncoderSpec(
        n_layers=3, width=384, n_heads=12, head_width=32, feed_forward=Dense(units=384), max_tokens=512
    )
    spec = StudentSpec(vocabulary_size=VOCABULARY, output_dim=384, encoder=encoder)
    tokenizer = Tokenizer(WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    generator = np.random.default_rng(0)
    weights = {name: 0.05 * generator.standard_normal(shape) for name, shape in expected_tensors(spec).items()}
    return write_folder(folder, spec, weights=weights, tokenizer_json=tokenizer.to_str())


def sentences(n: int) -> list[str]:
    """Sentences of equal length."""
    words = np.random.default_rng(1).integers(0, VOCABULARY, size=(n, N_WORDS))
    return [" ".join(f"w{word}" for word in row) for row in words]


@contextmanager
def service(folder: Path, *, max_batch: int, n_threads: int) -> Iterator[tuple[str, int]]:
    """Host and port of a service that runs as a process of its own."""
    command = [sys.executable, "-m", "runtime", str(folder), "--name", "student", "--port", "0"]
    command += ["--max-batch", str(max_batch), "--threads", str(n_threads), "--max-queue", "4096"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        address = urlsplit(process.stdout.readline().strip())
        if address.hostname is None or address.port is None:
            raise RuntimeError(f"the service of {folder} did not start; run it by hand: {' '.join(command)}")
        yield address.hostname, address.port
    finally:
        process.terminate()
        process.communicate()


def request_of(sentence: str) -> bytes:
    """A whole HTTP request."""
    body = json.dumps({"model": "student", "input": sentence, "encoding_format": "base64"}).encode()
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


async def ask(host: str, port: int, requests: list[bytes], *, end: float) -> list[float]:
    """Seconds of each request that one client had answered until the clock says `end`."""
    reader, writer = await asyncio.open_connection(host, port)
    seconds: list[float] = []
    while (start := time.perf_counter()) < end:
        writer.write(requests[len(seconds) % len(requests)])
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"the service must answer every request, got {head.splitlines()[0].decode()}")
        length = next(line for line in head.lower().splitlines() if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
        seconds.append(time.perf_counter() - start)
    writer.close()
    await writer.wait_closed()
    return seconds


async def load_service(host: str, port: int, *, n_clients: int, seconds: float) -> list[float]:
    """Seconds of every request of some clients that ask at the same time."""
    requests = [request_of(sentence) for sentence in sentences(64)]
    end = time.perf_counter() + seconds
    shifted = [requests[i % 64 :] + requests[: i % 64] for i in range(n_clients)]
    answered = await asyncio.gather(*(ask(host, port, own, end=end) for own in shifted))
    return [each for client in answered for each in client]


def direct_rate(folder: Path, *, n_threads: int, seconds: float) -> float:
    """Sentences a second when the student is called one sentence at a time, without a service."""
    from threadpoolctl import threadpool_limits

    encoder, texts = load(folder), sentences(64)
    with threadpool_limits(n_threads):
        encoder.encode(texts[:1])
        n, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            encoder.encode([texts[n % 64]])
            n += 1
        return n / (time.perf_counter() - start)


def measure(folder: Path, *, clients: list[int], rounds: int, seconds: float, n_threads: int) -> list[dict[str, Any]]:
    """For each number of clients and each service: requests a second, and median and 99th percentile latency."""
    latencies: dict[tuple[int, str], list[float]] = {(n, name): [] for n in clients for name in BATCHES}
    with ExitStack() as running:
        addresses = {
            name: running.enter_context(service(folder, max_batch=size, n_threads=n_threads))
            for name, size in BATCHES.items()
        }
        for _ in range(rounds):
            for n_clients, name in latencies:
                host, port = addresses[name]
                work = load_service(host, port, n_clients=n_clients, seconds=seconds)
                latencies[n_clients, name] += asyncio.run(work)
    return [
        {
            "n_clients": n_clients,
            "service": name,
            "n_requests": len(each),
            "requests_per_second": len(each) / (rounds * seconds),
            "p50_ms": 1e3 * float(np.percentile(each, 50)),
            "p99_ms": 1e3 * float(np.percentile(each, 99)),
        }
        for (n_clients, name), each in latencies.items()
    ]


def say(text: str) -> None:
    """Print a message to the user."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Measure, show, and with --json print one document as the last line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help="a student; default: 3 x 384 with random weights")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64], help="clients at a time")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="in which the services take turns")
    parser.add_argument("--threads", type=int, default=1, help="of one encoding")
    parser.add_argument("--json", action="store_true", help="print one JSON document as the last line")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or write_student(Path(temporary) / "student")
        direct = direct_rate(folder, n_threads=arguments.threads, seconds=arguments.seconds)
        measured = measure(
            folder,
            clients=arguments.clients,
            rounds=arguments.rounds,
            seconds=arguments.seconds,
            n_threads=arguments.threads,
        )
    say(f"called directly, one sentence of {N_WORDS} words at a time: {direct:.0f} sentences a second")
    say("clients  service           requests/s    p50 ms    p99 ms")
    for row in measured:
        say(
            f"{row['n_clients']:7d}  {row['service']:16s} {row['requests_per_second']:11.0f} "
            f"{row['p50_ms']:9.2f} {row['p99_ms']:9.2f}"
        )
    if arguments.json:
        document = {
            "benchmark": "service",
            "n_words": N_WORDS,
            "n_threads": arguments.threads,
            "direct_sentences_per_second": direct,
            "measured": measured,
        }
        print(json.dumps(document))


if __name__ == "__main__":
    main()
