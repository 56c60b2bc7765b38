# SPDX-License-Identifier: Apache-2.0
"""A compressed body is the body that was compressed, and never more than a body may be."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import load
from runtime.service.content_encoding import decode_body, require_encoding
from runtime.service.embeddings_format import RequestError
from runtime.service.limits import ServingOptions
from tests.runtime.serving import GOOD, JSON, Client, refusal, serving, wait_until_ready
from tests.runtime.tiny_student import write_tiny_student


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


CODINGS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("X-Gzip", gzip.compress),
    ("gzip", lambda data: gzip.compress(data[:7]) + gzip.compress(data[7:])),
    ("gzip", lambda data: gzip.compress(b"") * 100 + gzip.compress(data) + gzip.compress(b"")),
    ("deflate", zlib.compress),
    ("Deflate", raw_deflate),
    ("identity", bytes),
    ("", bytes),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = write_tiny_student(tmp_path_factory.mktemp("service") / "tiny")
    with serving(lambda: load(folder), ServingOptions(max_body_bytes=8000)) as made:
        yield wait_until_ready(made)


@pytest.mark.parametrize(("header", "compress"), CODINGS)
@given(data=st.binary(max_size=300))
def test_a_body_is_what_was_compressed(header: str, compress: Callable[[bytes], bytes], data: bytes) -> None:
    assert decode_body(compress(data), require_encoding(header), most=300) == data


@pytest.mark.parametrize(("header", "compress"), CODINGS)
def test_the_service_reads_compressed_bodies(client: Client, header: str, compress: Callable[[bytes], bytes]) -> None:
    plain = client.ask("POST", "/v1/embeddings", GOOD, JSON)
    assert plain[0] == 200
    headers = JSON | {"Content-Encoding": header}
    assert client.ask("POST", "/v1/embeddings", compress(GOOD.encode()), headers)[2] == plain[2]


@pytest.mark.parametrize(("header", "compress"), [coding for coding in CODINGS if coding[1] is not bytes])
def test_a_bomb_is_413_and_takes_no_memory(client: Client, header: str, compress: Callable[[bytes], bytes]) -> None:
    bomb = compress(b" " * 4_000_000)
    assert len(bomb) < 8000
    status, error = refusal(client.ask("POST", "/v1/embeddings", bomb, JSON | {"Content-Encoding": header}))
    assert (status, "at most 8000 bytes" in error["message"]) == (413, True)
    peaks = []
    for _ in range(5):  # the server's thread may still be closing the connection, with a buffer of 256 KiB
        tracemalloc.start()
        with pytest.raises(RequestError, match="at most 8000 bytes"):
            decode_body(bomb, require_encoding(header), most=8000)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert min(peaks) < 200_000


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: b"\x00" + data,
        lambda data: data + b"x",
        lambda data: data + data[:-1],
        lambda data: data[:-1] + data,
        lambda data: GOOD.encode(),
        lambda data: gzip.compress(data) if data[:2] != b"\x1f\x8b" else zlib.compress(data),
    ],
)
def test_damaged_data_is_400_and_names_the_coding(
    client: Client, coding: str, damage: Callable[[bytes], bytes]
) -> None:
    compress = gzip.compress if coding == "gzip" else zlib.compress
    body = damage(compress(GOOD.encode()))
    status, error = refusal(client.ask("POST", "/v1/embeddings", body, JSON | {"Content-Encoding": coding}))
    assert status == 400
    assert f"must be {coding} data" in error["message"]


def test_deflate_is_one_stream_as_http_defines_it() -> None:
    with pytest.raises(RequestError, match="must be deflate data"):
        decode_body(zlib.compress(b"a") * 2, "deflate", most=300)


def test_members_together_are_no_more_than_a_body_may_be() -> None:
    body = gzip.compress(b"a" * 100) * 3
    assert decode_body(body, "gzip", most=300) == b"a" * 300
    assert decode_body(gzip.compress(b"") * 2000 + body, "gzip", most=300) == b"a" * 300
    with pytest.raises(RequestError, match="at most 299 bytes"):
        decode_body(body, "gzip", most=299)


def test_two_headers_are_two_codings(client: Client) -> None:
    body = gzip.compress(gzip.compress(GOOD.encode()))
    connection = client.connect()
    connection.putrequest("POST", "/v1/embeddings")
    for name, value in [*JSON.items(), *[("Content-Encoding", "gzip")] * 2, ("Content-Length", str(len(body)))]:
        connection.putheader(name, value)
    connection.endheaders(body)
    response = connection.getresponse()
    assert (response.status, response.getheader("accept-encoding")) == (415, "gzip, deflate, identity")
    connection.close()


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, gzip", "identity, gzip", "x" * 5000])
def test_another_coding_is_415_and_the_ones_that_are_read_are_named(client: Client, coding: str) -> None:
    answer = client.ask("POST", "/v1/embeddings", GOOD, JSON | {"Content-Encoding": coding})
    status, error = refusal(answer)
    assert (status, answer[1]["accept-encoding"]) == (415, "gzip, deflate, identity")
    assert f"gzip, deflate, identity, got {coding[:40]}; send it uncompressed" in error["message"]
