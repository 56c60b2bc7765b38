# SPDX-License-Identifier: Apache-2.0
"""Proxies: a host is said to be behind one exactly if `requests` would ask one."""

from __future__ import annotations

import os

import pytest
from requests.utils import get_environ_proxies, select_proxy

from runtime.proxies import GRPC, is_loopback, proxy_explained, variables_of

NAMES = [f"{name}_proxy" for name in ("http", "https", "all", "no", "grpc")]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "10.1.2.3", "mlflow.example.org"])
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"HTTP_PROXY": "http://proxy:3128"},
        {"http_proxy": "proxy:3128"},
        {"HTTPS_PROXY": "http://proxy:3128"},
        {"ALL_PROXY": "socks5://proxy:1080"},
        {"http_proxy": "", "all_proxy": "http://proxy:1"},
        {"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": "localhost,127.0.0.1"},
        {"HTTP_PROXY": "http://proxy:3128", "no_proxy": "127.0.0.0/8, .example.org"},
        {"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": "10.0.0.0/8,example.org"},
        {"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": "*"},
        {"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": "ample.org, 27.0.0.1"},
    ],
)
def test_a_proxy_is_named_exactly_if_requests_asks_one(
    variables: dict[str, str], scheme: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    url = f"{scheme}://{host}:5000"
    asked = select_proxy(url, get_environ_proxies(url))
    explained = proxy_explained(host.strip("[]"), variables=variables_of(url))
    assert (explained is not None) == (asked is not None)
    if explained is not None:
        variable, *_ = [name for name in variables if f"{name} sends" in explained]
        assert "proxy:" in explained and os.environ[variable] and explained.endswith("to NO_PROXY to ask it directly")


def test_the_password_of_a_proxy_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://me:secret@proxy:3128")
    assert proxy_explained("127.0.0.1") == (
        "HTTP_PROXY sends requests for 127.0.0.1 to the proxy proxy:3128; add 127.0.0.1 to NO_PROXY to ask it directly"
    )


def test_grpc_reads_names_in_small_letters_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    assert proxy_explained("127.0.0.1", variables=GRPC) is None
    monkeypatch.setenv("grpc_proxy", "http://proxy:3129")
    assert "grpc_proxy sends" in str(proxy_explained("127.0.0.1", variables=GRPC))


@pytest.mark.parametrize("value", ["http://[bad", "http://me:secret@[bad", "[", "http://", "//", "@"])
def test_a_proxy_whose_address_is_none_is_named_by_its_variable_alone(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", value)
    assert proxy_explained("127.0.0.1") == (
        "http_proxy sends requests for 127.0.0.1 to a proxy; add 127.0.0.1 to NO_PROXY to ask it directly"
    )


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("box", False)],
)
def test_loopback_is_told_from_the_rest(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected
