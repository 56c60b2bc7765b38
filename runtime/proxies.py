# SPDX-License-Identifier: Apache-2.0
"""Whether environment variables send requests for a host to a proxy, as libcurl, requests, httpx and gRPC read them.

A proxy cannot reach this machine's own loopback addresses, and answers in the server's place. So a server that is asked
through one is refused or reported with the variable's name.
"""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import urlsplit
from urllib.request import proxy_bypass

HTTP = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
"""The variables of http:// addresses, in the order in which they are read."""
HTTPS = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
"""Those of https:// addresses."""
GRPC = ("grpc_proxy", "https_proxy", "http_proxy")
"""Those of gRPC."""


def proxy_explained(host: str, *, variables: tuple[str, ...] = HTTP) -> str | None:
    """The variable that sends requests for a host to a proxy, and its remedy, as a clause; None: none does."""
    variable = next((name for name in variables if os.environ.get(name)), None)
    if variable is None or _is_excepted(host):
        return None
    proxy = urlsplit(os.environ[variable] if "//" in os.environ[variable] else f"//{os.environ[variable]}")
    address = proxy.netloc.rpartition("@")[2]  # without name and password
    return f"{variable} sends requests for {host} to the proxy {address}; add {host} to NO_PROXY to ask it directly"


def variables_of(url: str) -> tuple[str, ...]:
    """The variables that are read for an address."""
    return HTTPS if url.startswith("https:") else HTTP


def _is_excepted(host: str) -> bool:
    """Whether NO_PROXY has the host, its domain, or a network that its address is in."""
    if proxy_bypass(host):
        return True
    excepted = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(address in network for network in _networks(excepted.split(",")))


def _networks(names: list[str]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    networks = []
    for name in names:
        try:
            networks.append(ipaddress.ip_network(name.strip().strip("[]"), strict=False))
        except ValueError:
            continue  # a host's name
    return networks
