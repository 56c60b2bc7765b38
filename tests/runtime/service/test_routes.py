# SPDX-License-Identifier: Apache-2.0
"""A real server on loopback, real clients, and a tiny student: what OpenAI's clients rely on, and what is refused."""

from __future__ import annotations

import base64
import json
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import Engine, load
from runtime.service.limits import ServingOptions
from runtime.service.routes import FEW_NUMBERS, Service, State
from runtime.service.served_student import FEW_CHARACTERS
from tests.runtime.serving import GOOD, JSON, SECONDS, Client, refusal, send, serving, wait_until, wait_until_ready
from tests.runtime.tiny_student import ATOL, MAX_TOKENS, GatedEngine, random_sentences, write_tiny_student


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_student(tmp_path_factory.mktemp("service") / "tiny")


@pytest.fixture(scope="module")
def student(folder: Path) -> Engine:
    return load(folder)


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Client]:
    """A service with small limits."""
    options = ServingOptions(max_sentences=30, max_characters=200, max_body_bytes=8000, max_batch=8)
    with serving(lambda: load(folder), options) as made:
        yield wait_until_ready(made)


@pytest.fixture
def engine(folder: Path) -> Iterator[GatedEngine]:
    """An engine that a test may hold back; let go at the end."""
    made = GatedEngine(folder)
    yield made
    made.gate.set()


# What clients rely on


def test_the_answer_has_the_official_shape(client: Client, student: Engine) -> None:
    status, answer = client.embed(input=["the cat sat", "a mat"], user="someone", dimensions=16)
    assert status == 200
    assert set(answer) == {"object", "data", "model", "usage"}
    assert (answer["object"], answer["model"]) == ("list", "tiny")
    assert answer["usage"] == {"prompt_tokens": 9, "total_tokens": 9}  # two special tokens each
    assert [set(entry) for entry in answer["data"]] == [{"object", "index", "embedding"}] * 2
    assert [(entry["object"], entry["index"]) for entry in answer["data"]] == [("embedding", 0), ("embedding", 1)]
    vectors = np.array([entry["embedding"] for entry in answer["data"]], dtype=np.float32)
    np.testing.assert_allclose(vectors, student.encode(["the cat sat", "a mat"]), atol=ATOL)


def test_base64_decodes_to_the_same_floats(client: Client) -> None:
    texts = random_sentences(5, seed=3)
    status, answer = client.embed(input=texts, encoding_format="base64")
    assert status == 200
    decoded = [np.frombuffer(base64.b64decode(entry["embedding"]), dtype="<f4") for entry in answer["data"]]
    np.testing.assert_array_equal(np.stack(decoded), client.vectors(input=texts, encoding_format="float"))


def test_every_kind_of_input_gives_the_same_vectors(client: Client, student: Engine) -> None:
    texts = ["the cat sat on a mat", "and slept"]
    assert student.tokenizer is not None
    ids = [token_ids.tolist() for token_ids in student.tokenizer.encode(texts)]
    expected = student.encode(texts)
    np.testing.assert_allclose(client.vectors(input=texts), expected, atol=ATOL)
    np.testing.assert_allclose(client.vectors(input=ids), expected, atol=ATOL)
    np.testing.assert_allclose(client.vectors(input=texts[0]), expected[:1], atol=ATOL)
    np.testing.assert_allclose(client.vectors(input=ids[0]), expected[:1], atol=ATOL)


def test_a_sentence_that_is_too_long_for_the_student_is_cut(client: Client, student: Engine) -> None:
    text = " ".join(["cat"] * 40)
    status, answer = client.embed(input=text)
    assert (status, answer["usage"]["prompt_tokens"]) == (200, MAX_TOKENS)
    np.testing.assert_allclose(client.vectors(input=text), student.encode([text]), atol=ATOL)


def test_many_clients_at_once_have_their_own_vectors(client: Client, student: Engine) -> None:
    requests = [random_sentences(1 + i % 11, seed=i) for i in range(64)]
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda texts: client.vectors(input=texts), requests))
    for texts, vectors in zip(requests, answers, strict=True):
        np.testing.assert_allclose(vectors, student.encode(texts), atol=ATOL)


def test_a_large_request_is_answered_like_a_small_one(folder: Path, student: Engine) -> None:
    texts = random_sentences(300, seed=8)
    assert sum(map(len, texts)) > FEW_CHARACTERS
    assert len(texts) * 16 > FEW_NUMBERS
    with serving(lambda: load(folder)) as client:
        wait_until_ready(client)
        np.testing.assert_allclose(client.vectors(input=texts), student.encode(texts), atol=ATOL)


def test_one_connection_serves_many_requests(client: Client) -> None:
    connection = client.connect()
    for document in ({"input": "the cat"}, {"input": []}, {"input": "a mat"}):
        connection.request("POST", "/v1/embeddings", json.dumps({"model": "tiny", **document}), JSON)
        response = connection.getresponse()
        response.read()
        assert response.status == (400 if document["input"] == [] else 200)
    connection.close()


def test_the_model_is_listed(client: Client) -> None:
    status, headers, body = client.ask("GET", "/v1/models")
    document = json.loads(body)
    (model,) = document["data"]
    assert (status, headers["content-type"], document["object"]) == (200, "application/json", "list")
    assert set(model) == {"id", "object", "created", "owned_by"}
    assert (model["id"], model["object"], type(model["created"])) == ("tiny", "model", int)
    assert json.loads(client.ask("GET", "/v1/models/tiny")[2]) == model


def test_a_model_whose_name_has_a_slash_is_found(folder: Path) -> None:
    service = Service(lambda: load(folder), ServingOptions(), name="study/3")
    with serving(service) as client:
        for path in ("/v1/models/study/3", "/v1/models/study%2F3"):  # the openai client sends the second
            assert json.loads(client.ask("GET", path)[2])["id"] == "study/3"


# What is refused


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        ("{", JSON, 400, "must be JSON"),
        ("", JSON, 400, "must be JSON"),
        ("[]", JSON, 400, "must be a JSON object"),
        (b"\xff", JSON, 400, "must be JSON"),
        (GOOD, {}, 415, "application/json"),
        (GOOD, {"Content-Type": "text/plain"}, 415, '"text/plain"'),
        ('{"model": "tiny"}', JSON, 400, "input"),
        ('{"input": "the cat"}', JSON, 400, "model"),
        ('{"model": "tiny", "input": []}', JSON, 400, "empty list"),
        ('{"model": "tiny", "input": ["a", ""]}', JSON, 400, "input[1]"),
        ('{"model": "tiny", "input": "the cat", "dimensions": 8}', JSON, 400, "16"),
        ('{"model": "tiny", "input": [1, 99, 2]}', JSON, 400, "none with the id 99"),
        # what LangChain's OpenAIEmbeddings sends by default: tiktoken's ids of "hello world" and of "the cat"
        (
            '{"model": "tiny", "input": [[15339, 1917]], "encoding_format": "base64"}',
            JSON,
            400,
            "none with the id 15339",
        ),
        (
            '{"model": "tiny", "input": [[4, 5]], "encoding_format": "base64"}',
            JSON,
            400,
            "begin with [1] and end with [2]",
        ),
        ('{"model": "other", "input": "the cat"}', JSON, 404, "/v1/models"),
        (json.dumps({"model": "tiny", "input": ["a"] * 31}), JSON, 400, "at most 30 sentences"),
        (json.dumps({"model": "tiny", "input": "a" * 201}), JSON, 400, "at most 200 characters"),
        (" " * 8001, JSON, 413, "at most 8000 bytes"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str | bytes) else "",
)
def test_a_request_that_cannot_be_answered(
    client: Client, body: Any, headers: dict[str, str], status: int, message: str
) -> None:
    got, error = refusal(client.ask("POST", "/v1/embeddings", body, headers))
    assert got == status
    assert message in error["message"]
    assert (error["code"] == "model_not_found") == (status == 404)


def test_a_text_that_the_tokenizer_would_multiply_is_400(tmp_path: Path) -> None:
    folder = write_tiny_student(tmp_path / "tiny")
    document = json.loads((folder / "tokenizer.json").read_text())
    document["normalizer"] = {"type": "Replace", "pattern": {"String": "x"}, "content": "y" * 2000}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    with serving(lambda: load(folder)) as client:
        wait_until_ready(client)
        assert client.embed(input="x")[0] == 200
        status, answer = client.embed(input=["a mat", "x" * 2000])
        assert (status, answer["error"]["param"]) == (400, "input")
        assert "would make 4e+06 of one of 2000 characters; send a shorter one" in answer["error"]["message"]


def test_the_openai_client_is_answered(client: Client, student: Engine) -> None:
    """The request as openai 3.57 for Python sends it."""
    headers = {"Accept-Encoding": "gzip, deflate", "Connection": "keep-alive", "authorization": "Bearer none"}
    headers |= {"accept": "application/json", "content-type": "application/json", "x-stainless-async": "false"}
    body = b'{"model":"tiny","input":["the cat","a mat"],"encoding_format":"base64"}'
    status, _, answer = client.ask("POST", "/v1/embeddings", body, headers)
    decoded = [base64.b64decode(entry["embedding"]) for entry in json.loads(answer)["data"]]
    vectors = np.stack([np.frombuffer(data, dtype="<f4") for data in decoded])
    assert status == 200
    np.testing.assert_allclose(vectors, student.encode(["the cat", "a mat"]), atol=ATOL)


def test_token_ids_may_be_refused_altogether(folder: Path) -> None:
    with serving(lambda: load(folder), ServingOptions(accept_token_ids=False)) as client:
        wait_until_ready(client)
        assert client.embed(input="the cat")[0] == 200
        status, answer = client.embed(input=[1, 4, 5, 2])
        assert (status, answer["error"]["param"]) == (400, "input")
        assert "token ids are refused here" in answer["error"]["message"]


def test_a_content_type_may_name_its_character_set(client: Client) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert client.ask("POST", "/v1/embeddings", GOOD, headers)[0] == 200


def test_a_body_without_a_length_is_counted_while_it_arrives(client: Client) -> None:
    small = client.ask("POST", "/v1/embeddings", iter([GOOD[:9].encode(), GOOD[9:].encode()]), JSON)
    assert small[0] == 200
    large = client.ask("POST", "/v1/embeddings", iter([b" " * 1000] * 9), JSON)
    assert refusal(large)[0] == 413


def test_a_length_that_is_too_large_is_refused_before_the_body_is_sent(client: Client) -> None:
    for length in ("8001", "9" * 19):
        with send(client, f"Content-Type: application/json\r\nContent-Length: {length}", b"") as connection:
            assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_a_length_that_is_too_small_cuts_the_body(client: Client) -> None:
    with send(client, "Content-Type: application/json\r\nContent-Length: 5", GOOD.encode()) as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")


def test_a_length_beside_chunks_does_not_lift_the_limit(client: Client) -> None:
    head = "Content-Type: application/json\r\nContent-Length: 5\r\nTransfer-Encoding: chunked"
    with send(client, head, b"2000\r\n" + b" " * 0x2000 + b"\r\n0\r\n\r\n") as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 4")


@pytest.mark.parametrize("model", ["other", "tin", "tiny/1", "", "tiny%00", "%F0%9F%90%88"])
def test_a_model_that_is_not_served_is_404_as_openai_says_it(client: Client, model: str) -> None:
    status, error = refusal(client.ask("GET", f"/v1/models/{model}"))
    assert status == (404 if model else 400)
    assert (error["param"], error["code"]) == ("model", "model_not_found" if model else None)
    assert '"tiny"' in error["message"]


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/embeddings/", "/docs"])
def test_an_unknown_path_is_404(client: Client, path: str) -> None:
    status, error = refusal(client.ask("POST", path, GOOD, JSON))
    assert status == 404
    assert "/v1/embeddings" in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/embeddings", "POST"),
        ("PUT", "/v1/embeddings", "POST"),
        ("POST", "/health", "GET"),
        ("DELETE", "/v1/models/tiny", "GET"),
        ("OPTIONS", "/v1/models", "GET"),
    ],
)
def test_a_wrong_method_is_405_and_names_the_right_one(client: Client, method: str, path: str, allowed: str) -> None:
    answer = client.ask(method, path)
    assert refusal(answer)[0] == 405
    assert allowed in answer[1]["allow"]


def test_a_body_that_does_not_arrive_is_given_up(folder: Path) -> None:
    with serving(lambda: load(folder), ServingOptions(max_body_seconds=0.05)) as client:
        wait_until_ready(client)
        with send(client, "Content-Type: application/json\r\nContent-Length: 99", b"{") as connection:
            assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")


# Under load, and at the beginning and end of its life


def test_it_is_ready_when_the_student_is_loaded_and_not_before(folder: Path) -> None:
    gate = threading.Event()

    def slowly() -> Engine:
        assert gate.wait(SECONDS)
        return load(folder)

    with serving(slowly) as client:
        try:
            assert client.ask("GET", "/health")[::2] == (503, b'{"status": "loading"}')
            status, answer = client.embed(input="the cat")
            assert (status, answer["error"]["type"]) == (503, "server_error")
            assert client.ask("GET", "/v1/models")[0] == client.ask("GET", "/metrics")[0] == 200
        finally:
            gate.set()
        wait_until_ready(client)
        assert client.ask("GET", "/health")[::2] == (200, b'{"status": "ready"}')
        client.service.refuse_new()
        assert client.ask("GET", "/health")[::2] == (503, b'{"status": "closing"}')
        assert client.embed(input="the cat")[0] == 503


def test_a_signal_while_the_student_is_loaded_ends_in_order(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    gate = threading.Event()
    loaded: list[Engine] = []

    def slowly() -> Engine:
        assert gate.wait(SECONDS)
        loaded.append(load(folder))
        return loaded[0]

    with serving(slowly) as client:
        wait_until(lambda: client.ask("GET", "/health")[0] == 503)
        client.server.handle_exit(signal.SIGTERM, None)
        gate.set()
    assert (len(loaded), client.service.state, client.service.failure) == (1, State.CLOSING, None)
    assert caplog.text == ""


def test_what_comes_while_an_encoding_runs_is_encoded_together(engine: GatedEngine, student: Engine) -> None:
    with serving(lambda: engine) as client, ThreadPoolExecutor(8) as clients:
        wait_until_ready(client)
        engine.batches.clear()
        engine.gate.clear()
        texts = random_sentences(6, seed=5)
        first = clients.submit(client.vectors, input=texts[0])
        wait_until(lambda: len(engine.batches) == 1)
        others = [clients.submit(client.vectors, input=text) for text in texts[1:]]
        wait_until(lambda: client.metrics()["understudy_sentences_waiting", ()] == 5)
        engine.gate.set()
        vectors = np.concatenate([future.result() for future in (first, *others)])
    assert [len(batch) for batch in engine.batches] == [1, 5]
    np.testing.assert_allclose(vectors, student.encode(texts), atol=ATOL)


def test_too_many_at_once_are_told_to_come_back(engine: GatedEngine) -> None:
    with serving(lambda: engine, ServingOptions(max_queue=2)) as client, ThreadPoolExecutor(2) as clients:
        wait_until_ready(client)
        engine.gate.clear()
        waiting = [clients.submit(client.embed, input="the cat") for _ in range(2)]
        wait_until(lambda: client.metrics()["understudy_requests_in_progress", ()] == 2)
        status, headers, body = client.ask("POST", "/v1/embeddings", GOOD, JSON)
        assert (status, headers["retry-after"]) == (429, "1")
        assert json.loads(body)["error"]["type"] == "rate_limit_error"
        engine.gate.set()
        assert [future.result()[0] for future in waiting] == [200, 200]
        assert client.embed(input="the cat")[0] == 200


def test_a_client_that_leaves_is_not_encoded(engine: GatedEngine) -> None:
    with serving(lambda: engine) as client, ThreadPoolExecutor(1) as clients:
        wait_until_ready(client)
        engine.batches.clear()
        engine.gate.clear()
        stays = clients.submit(client.embed, input="the cat")
        wait_until(lambda: len(engine.batches) == 1)
        leaves = client.connect()
        leaves.request("POST", "/v1/embeddings", '{"model": "tiny", "input": "a mat"}', JSON)
        wait_until(lambda: client.metrics()["understudy_sentences_waiting", ()] == 1)
        leaves.close()
        wait_until(lambda: client.metrics()["understudy_sentences_waiting", ()] == 0)
        engine.gate.set()
        assert stays.result()[0] == 200
        assert client.metrics()["understudy_requests_total", ("/v1/embeddings", "499")] == 1
    assert engine.tokenizer is not None
    assert engine.batches == [[engine.tokenizer.encode(["the cat"])[0].tolist()]]


def test_an_encoding_that_fails_is_one_clients_500(engine: GatedEngine, caplog: pytest.LogCaptureFixture) -> None:
    with serving(lambda: engine) as client, ThreadPoolExecutor(3) as clients:
        wait_until_ready(client)
        engine.gate.clear()
        first = clients.submit(client.embed, input="the cat")
        wait_until(lambda: len(engine.batches) == 2)  # the first is the service's own
        together = [clients.submit(client.embed, input=text) for text in ("poison", "a mat")]
        wait_until(lambda: client.metrics()["understudy_sentences_waiting", ()] == 2)
        engine.gate.set()
        assert [future.result()[0] for future in (first, *together)] == [200, 500, 200]
        status, answer = client.embed(input="poison")
        assert (status, answer["error"]["type"]) == (500, "server_error")
        assert "poison" not in answer["error"]["message"]
        assert client.embed(input="the cat")[0] == 200
    assert "MemoryError: poison" in caplog.text


def test_a_signal_finishes_what_is_in_progress(engine: GatedEngine) -> None:
    with serving(lambda: engine) as client, ThreadPoolExecutor(3) as clients:
        wait_until_ready(client)
        engine.gate.clear()
        waiting = [clients.submit(client.embed, input=f"the cat {i}") for i in range(3)]
        wait_until(lambda: client.metrics()["understudy_requests_in_progress", ()] == 3)
        client.server.handle_exit(signal.SIGTERM, None)
        assert client.service.state is State.CLOSING
        engine.gate.set()
        assert [future.result()[0] for future in waiting] == [200, 200, 200]


def test_metrics_count_requests_sentences_tokens_and_batches(folder: Path) -> None:
    with serving(lambda: load(folder), ServingOptions(max_batch=2)) as client:
        wait_until_ready(client)
        before = client.metrics()
        assert before["understudy_sentences_total", ()] == 0
        assert before["understudy_batch_sentences_count", ()] == 0
        client.embed(input=["the cat", "a mat", "the cat sat"])  # 4 + 4 + 5 tokens in batches of 2 and 1
        client.embed(input=[])
        client.ask("GET", "/v1/models/some")
        client.ask("GET", "/v1/models/other")
        client.ask("GET", "/nowhere")
        client.ask("GET", "/else/where")
        counted = client.metrics()
    expected = {
        ("understudy_requests_total", ("/v1/embeddings", "200")): 1,
        ("understudy_requests_total", ("/v1/embeddings", "400")): 1,
        ("understudy_requests_total", ("other", "404")): 2,
        ("understudy_requests_total", ("/v1/models/{model}", "404")): 2,
        ("understudy_request_seconds_count", ("/v1/embeddings",)): 2,
        ("understudy_sentences_total", ()): 3,
        ("understudy_tokens_total", ()): 13,
        ("understudy_batch_sentences_count", ()): 2,
        ("understudy_batch_sentences_sum", ()): 3,
        ("understudy_batch_sentences_bucket", ("1.0",)): 1,
        ("understudy_batch_sentences_bucket", ("2.0",)): 2,
        ("understudy_batch_seconds_count", ()): 2,
        ("understudy_sentences_waiting", ()): 0,
        ("understudy_requests_in_progress", ()): 0,
    }
    assert {key: counted.get(key) for key in expected} == expected
    assert counted["process_resident_memory_bytes", ()] > 0
