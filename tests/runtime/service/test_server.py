# SPDX-License-Identifier: Apache-2.0
"""`python -m runtime` as people run it: what it prints, how it refuses, how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from runtime import load
from runtime.__main__ import main
from runtime.service.server import open_socket
from tests.runtime.tiny_student import ATOL, write_tiny_student

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_student(tmp_path_factory.mktemp("server") / "tiny")


@contextmanager
def process(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A Python process with what `arguments` say, killed if it is still there at the end."""
    started = subprocess.Popen(
        [sys.executable, "-W", "error", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield started
    finally:
        if started.poll() is None:
            started.kill()
        started.communicate()


@pytest.mark.parametrize(
    ("module", "sent"),
    [(["runtime"], signal.SIGTERM), (["runtime"], signal.SIGHUP), (["search", "serve"], signal.SIGINT)],
    ids=["runtime", "runtime, hang-up", "search"],
)
def test_a_process_serves_until_it_is_told_to_end(folder: Path, module: list[str], sent: signal.Signals) -> None:
    with process("-m", *module, folder, "--port", 0, "--host", "0.0.0.0", "--threads", 1) as server:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        assert address.startswith("http://0.0.0.0:")
        body = json.dumps({"model": "tiny", "input": ["the cat sat", "a mat"]}).encode()
        local = address.replace("0.0.0.0", "127.0.0.1")
        request = urllib.request.Request(f"{local}/v1/embeddings", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
        server.send_signal(sent)
        out, error = server.communicate(timeout=60)
        assert (server.returncode, out) == (0, ""), error
    vectors = np.array([entry["embedding"] for entry in answer["data"]], dtype=np.float32)
    np.testing.assert_allclose(vectors, load(folder).encode(["the cat sat", "a mat"]), atol=ATOL)
    first, second = error.splitlines()
    assert first == f"warning: there is no API key (--api-key-file): everyone can use {address}; put a proxy before it"
    assert second == f"tiny is served at {address} (Ctrl-C ends it)"


def test_an_error_from_inside_is_no_bad_input(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise ValueError("operands could not be broadcast together")

    monkeypatch.setattr(np, "frombuffer", broken)
    assert main([str(folder), "--port", "0"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("python -m runtime: internal error, please report it: ValueError: operands could not be")
    assert "in _map_weights" in said


def test_a_proxy_that_clients_of_this_shell_would_ask_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("http_proxy", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    with process("-m", "runtime", folder, "--port", 0) as server:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        server.terminate()
        _, error = server.communicate(timeout=60)
    assert error.splitlines()[0] == (
        f"warning: clients with the variables of this shell do not reach {address}: HTTP_PROXY sends requests for "
        "127.0.0.1 to the proxy proxy.example:3128; add 127.0.0.1 to NO_PROXY to ask it directly"
    )


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The message of a command line that must be refused: exit status 2, one message, nothing on stdout."""
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as ended:  # argparse's way out
        status = int(ended.code or 0)
    printed = capsys.readouterr()
    assert (status, printed.out) == (2, "")
    assert printed.err.count("python -m runtime: ") == 1
    assert "Traceback" not in printed.err
    return printed.err


@pytest.mark.parametrize(
    "option",
    ["--port=65536", "--port=http", "--threads=0", "--max-batch=0", "--max-queue=-1", "--max-sentences=many"],
)
def test_a_wrong_option_is_refused_before_anything_is_loaded(capsys: pytest.CaptureFixture[str], option: str) -> None:
    flag, _, value = option.partition("=")
    message = refused(capsys, "no-such-folder", option)
    assert f"{flag}: must be a whole number" in message
    assert f"got {value!r}" in message
    assert "no-such-folder" not in message


def test_a_port_that_is_taken_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = refused(capsys, folder, "--port", port)
    assert f"127.0.0.1:{port}" in message
    assert "--port" in message


def test_an_address_of_another_machine_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "192.0.2.1:8000" in refused(capsys, folder, "--host", "192.0.2.1")  # RFC 5737: nobody's


def test_a_folder_without_a_student_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, tmp_path, "--port", 0)
    assert "student.json" in message
    assert "understudy export" in message


def test_a_damaged_student_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_tiny_student(tmp_path / "student")
    os.truncate(folder / "model.safetensors", 100)
    assert "model.safetensors is damaged" in refused(capsys, folder, "--port", 0)


def test_an_answer_does_not_wait_for_an_acknowledgement() -> None:
    with open_socket("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()[:2]):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_importing_the_room_imports_no_server() -> None:
    code = "import sys, runtime, spaces; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    with process("-c", code) as imported:
        out, _ = imported.communicate(timeout=60)
    assert not {"starlette", "uvicorn", "prometheus_client", "anyio", "threadpoolctl"} & set(out.split())


@pytest.mark.parametrize(
    ("module", "main"), [("runtime.__main__", "main([folder])"), ("search.cli.main", "main(['serve', folder])")]
)
def test_without_the_extra_one_message_says_which(folder: Path, module: str, main: str) -> None:
    code = f"""
        import sys
        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in ("starlette", "uvicorn", "prometheus_client", "threadpoolctl", "anyio"):
                    raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        sys.meta_path.insert(0, Absent())
        from {module} import main
        folder = {str(folder)!r}
        sys.exit({main})
    """
    with process("-c", textwrap.dedent(code)) as refusing:
        out, error = refusing.communicate(timeout=60)
    assert (refusing.returncode, out) == (2, "")
    assert "pip install 'understudy[serve]'" in error
    assert error.count("\n") == 1
