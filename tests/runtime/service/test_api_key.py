# SPDX-License-Identifier: Apache-2.0
"""With a key, nothing but /health is answered without it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import load
from runtime.service.api_key import is_authorised, read_api_key
from runtime.service.limits import ServingOptions, add_serving_options, serving_options
from tests.runtime.serving import GOOD, JSON, Client, refusal, serving, wait_until_ready
from tests.runtime.tiny_student import write_tiny_student

KEY = "sk-0123456789/+=~"
RIGHT = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = write_tiny_student(tmp_path_factory.mktemp("service") / "tiny")
    with serving(lambda: load(folder), ServingOptions(api_key=KEY)) as made:
        yield wait_until_ready(made)


@pytest.mark.parametrize(
    "header", ["Bearer " + KEY, "bearer " + KEY, "BEARER   " + KEY, "Bearer " + KEY + " "], ids=repr
)
def test_the_key_opens_every_route(client: Client, header: str) -> None:
    headers = {"Authorization": header}
    assert client.ask("POST", "/v1/embeddings", GOOD, JSON | headers)[0] == 200
    for path in ("/v1/models", "/v1/models/tiny", "/metrics", "/health"):
        assert client.ask("GET", path, None, headers)[0] == 200
    assert client.ask("GET", "/nowhere", None, headers)[0] == 404


WRONG = ["", "Bearer", "Bearer ", KEY, f"Basic {KEY}", f"Bearer {KEY[:-1]}", f"Bearer {KEY}x", f"Bearer {KEY.upper()}"]
STRANGE = [f"Bearer {KEY} {KEY}", f"Bearer\t{KEY}", "Bearer \u00e9", "Bearer " + "x" * 10_000]


@pytest.mark.parametrize("header", [None, *WRONG, *STRANGE], ids=lambda header: str(header)[:30])
def test_without_the_key_everything_but_health_is_401(client: Client, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    for method, path in [("GET", "/v1/models"), ("GET", "/v1/models/tiny"), ("GET", "/metrics"), ("GET", "/nowhere")]:
        assert refusal(client.ask(method, path, None, headers))[0] == 401
    answer = client.ask("POST", "/v1/embeddings", GOOD, JSON | headers)
    status, error = refusal(answer)
    assert (status, error["code"], answer[1]["www-authenticate"]) == (401, "invalid_api_key", "Bearer")
    assert "Authorization: Bearer KEY" in error["message"]
    assert KEY not in json.dumps(error)
    assert client.ask("GET", "/health", None, headers)[0] == 200
    assert refusal(client.ask("GET", "/health/", None, headers))[0] == 401


def test_two_keys_are_none() -> None:
    right = (b"authorization", f"Bearer {KEY}".encode())
    assert is_authorised([(b"host", b"x"), right], KEY)
    assert not is_authorised([right, (b"authorization", b"Bearer other")], KEY)
    assert not is_authorised([right, right], KEY)


@pytest.mark.parametrize("content", [KEY, KEY + "\n", KEY + "\r\n"], ids=repr)
def test_a_file_or_the_environment_holds_the_key(tmp_path: Path, content: str) -> None:
    file = tmp_path / "key"
    file.write_bytes(content.encode())
    assert read_api_key(file, {"UNDERSTUDY_API_KEY": "other"}) == KEY
    assert read_api_key(None, {"UNDERSTUDY_API_KEY": KEY}) == KEY
    assert read_api_key(None, {}) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must not be empty"),
        (b"\n", "must not be empty"),
        (b"one\ntwo\n", "one line of 1 to 1024"),
        (b"a key\n", "without spaces"),
        ("schl\u00fcssel".encode(), "visible ASCII"),
        (b"key\x00", "visible ASCII"),
        (b"k" * 1025, "1 to 1024"),
        (b"k" * 5000, "1 to 1024"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_key_that_is_none_is_refused_and_not_shown(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_api_key(file, {})
    assert str(file) in str(caught.value)
    assert "key\x00" not in str(caught.value) and "schl" not in str(caught.value)
    if b"\x00" not in content and content != b"\n":
        with pytest.raises(ValueError, match=f"{message}.*UNDERSTUDY_API_KEY|UNDERSTUDY_API_KEY.*"):
            read_api_key(None, {"UNDERSTUDY_API_KEY": content.decode()})


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for file in (tmp_path / "absent", tmp_path):
        with pytest.raises(ValueError, match="--api-key-file must be a file that holds the key"):
            read_api_key(file, {})


def test_the_command_line_reads_the_key_and_does_not_show_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parser = argparse.ArgumentParser()
    add_serving_options(parser)
    monkeypatch.setenv("UNDERSTUDY_API_KEY", "other")
    assert serving_options(parser.parse_args([])).api_key == "other"
    (tmp_path / "key").write_text(KEY)
    options = serving_options(parser.parse_args(["--api-key-file", str(tmp_path / "key")]))
    assert options.api_key == KEY
    assert KEY not in repr(options)
    monkeypatch.setenv("UNDERSTUDY_API_KEY", "")
    with pytest.raises(ValueError, match="must not be empty, and UNDERSTUDY_API_KEY is"):
        serving_options(parser.parse_args([]))
