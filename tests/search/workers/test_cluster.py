# SPDX-License-Identifier: Apache-2.0
"""Claims about starting and reaching Ray."""

from __future__ import annotations

import os
import signal
import socket
import time

import pytest
import ray

from search.workers.cluster import cluster, connect, n_cpus_available


def test_an_address_where_nothing_listens_is_refused_within_seconds() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    start = time.monotonic()
    with pytest.raises(ValueError, match=f"no Ray cluster can be reached at '{address}'"):
        connect(address)
    assert time.monotonic() - start < 5.0


def test_what_is_no_address_is_refused() -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        connect("somewhere")


@pytest.mark.parametrize("timer", [(0.0, 0.0), (1000.0, 0.0), (1000.0, 500.0)])
def test_a_timer_of_the_caller_goes_on(timer: tuple[float, float]) -> None:
    before = signal.setitimer(signal.ITIMER_REAL, *timer)
    try:
        with pytest.raises(ValueError, match="HOST:PORT"):
            connect("somewhere")
        left, interval = signal.getitimer(signal.ITIMER_REAL)
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before)
    assert (left > 0.0, interval) == (timer[0] > 0.0, timer[1])
    assert left <= timer[0]


@pytest.mark.parametrize("n_timeouts", [1, 3])
def test_a_start_that_takes_too_long_is_repeated_and_then_explained(
    n_timeouts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    def init(**options: object) -> None:
        attempts.append(options)
        if len(attempts) <= n_timeouts:
            raise Exception("The current node timed out during startup. This could happen because")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "none is made")
    if n_timeouts == 3:
        with pytest.raises(ValueError, match=r"did not in 3 attempts.*same command again"):
            connect(n_cpus=1)
    else:
        assert connect(n_cpus=1)
    assert len(attempts) == min(3, n_timeouts + 1)


@pytest.mark.slow
def test_a_ray_of_our_own_has_a_token_of_its_own_and_ends_with_its_block() -> None:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with cluster(n_cpus=2):
        assert n_cpus_available() == 2
        assert not connect(n_cpus=1)  # already connected: nothing happens
        with cluster(n_cpus=1):
            pass
        assert ray.is_initialized()  # who did not connect does not disconnect
        assert n_cpus_available() == 2

        @ray.remote
        def environment() -> dict[str, str]:
            return dict(os.environ)

        seen = ray.get(environment.remote())
        assert seen["RAY_AUTH_MODE"] == "token" and len(seen["RAY_AUTH_TOKEN"]) == 64

        @ray.remote
        def survives(number: int) -> bool:
            os.kill(os.getpid(), number)
            return True

        # A signal to all processes of a job ends the driver, in its own way, and the driver ends its workers.
        assert all(ray.get([survives.remote(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]))
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
    assert not ray.is_initialized()
    with pytest.raises(KeyboardInterrupt):  # Ray's shutdown sets the default handler behind Python's back
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    assert signal.signal(signal.SIGTERM, before) is signal.default_int_handler


@pytest.mark.parametrize("address", ["127.0.0.1:6379", "ray://localhost:10001", "auto", None])
def test_a_proxy_that_ray_is_told_to_use_is_named_at_once(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name in ("no_proxy", "NO_PROXY", "grpc_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("RAY_grpc_enable_http_proxy", "1")
    with pytest.raises(
        ValueError,
        match=r"RAY_grpc_enable_http_proxy is set: http_proxy sends requests for .* proxy.example:3128; add ",
    ):
        connect(address)
