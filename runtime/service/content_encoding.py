# SPDX-License-Identifier: Apache-2.0
"""Compressed request bodies, decoded up to a bound (RFC 9110, 8.4)."""

from __future__ import annotations

import zlib

from runtime.service.embeddings_format import RequestError

ENCODINGS = ("gzip", "deflate", "identity")
_GZIP = zlib.MAX_WBITS | 16
_RAW = -zlib.MAX_WBITS
_PIECE_BYTES = 4096  # decoded at a time: what follows a member is copied at its end


def require_encoding(header: str) -> str:
    """The content coding that a header `Content-Encoding` names, in lower case; `identity` for none.

    Raises RequestError (415) for one that is not decoded here, and for several.
    """
    coding = header.strip().lower() or "identity"
    coding = {"x-gzip": "gzip"}.get(coding, coding)  # RFC 9110, 8.4.1.3
    if coding not in ENCODINGS:
        raise RequestError(
            415,
            f"a body's Content-Encoding is one of {', '.join(ENCODINGS)}, got {coding[:40]}; send it uncompressed",
            headers={"accept-encoding": ", ".join(ENCODINGS)},  # RFC 7694, 3
        )
    return coding


def decode_body(body: bytes, coding: str, *, most: int) -> bytes:
    """The decoded body; of gzip all its members, one after another (RFC 1952, 2.2).

    Raises RequestError for one that is damaged (400), and for one of more than `most` bytes (413), of which no more
    than that is decoded.
    """
    if coding == "identity":
        return body
    for wbits in (_GZIP,) if coding == "gzip" else (zlib.MAX_WBITS, _RAW):  # some clients send deflate without a header
        try:
            decoded = _decoded(body, wbits, most=most + 1)
        except zlib.error:
            continue
        if len(decoded) > most:
            raise RequestError(413, f"a body has at most {most} bytes, got more once decoded; send several requests")
        return decoded
    raise RequestError(
        400, f"the body must be {coding} data as its Content-Encoding says, and is damaged; send it again"
    )


def _decoded(body: bytes, wbits: int, *, most: int) -> bytes:
    """The first `most` decoded bytes. Raises zlib.error for what is damaged."""
    decoded, rest = bytearray(), memoryview(body)
    decoder = zlib.decompressobj(wbits)
    while rest and len(decoded) < most:
        if decoder.eof:
            if wbits != _GZIP:
                raise zlib.error("there is data after the end")
            decoder = zlib.decompressobj(wbits)
        piece = rest[:_PIECE_BYTES]
        decoded += decoder.decompress(piece, most - len(decoded))
        rest = rest[len(piece) - len(decoder.unused_data) :]
    if not decoder.eof and len(decoded) < most:
        raise zlib.error("the end is missing")
    return bytes(decoded)
