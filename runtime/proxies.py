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
    proxy = f"the proxy {address}" if (address := _address(os.environ[variable])) else "a proxy"
    return f"{variable} sends requests for {host} to {proxy}; add {host} to NO_PROXY to ask it directly"


def variables_of(url: str) -> tuple[str, ...]:
    """The variables that are read for an address."""
    return HTTPS if url.startswith("https:") else HTTP


def is_loopback(host: str) -> bool:
    """Whether the address is loopback."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _address(proxy: str) -> str:
    """HOST:PORT of a proxy, without name and password; empty if its address is none."""
    try:
        return urlsplit(proxy if "//" in proxy else f"//{proxy}").netloc.rpartition("@")[2]
    except ValueError:  # as of http://[bad
        return ""


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
