# SPDX-License-Identifier: Apache-2.0
"""Claims about tracking on a server: its address, what a search does without it, and what MLflow has in the end."""

from __future__ import annotations

import re
import shutil
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from runtime.loading import load
from search.cli.main import main
from search.records.objective import COSINE
from search.records.outcomes import Outcome, OutcomeKind
from search.records.trial import TrialState
from search.storage.store import Store
from search.storage.tracking_uri import require_tracking_uri
from search.study.run import run_search
from search.tracking.async_writer import TrialWriter
from search.tracking.client import client_of, create_store, require_tracking
from search.tracking.errors import is_refusal, reason_of, tracking_errors
from search.tracking.experiment import claim_experiment, runs_of_kind
from search.tracking.metrics import TRAINING_LOSS
from search.tracking.names import RunParam, Tag
from search.tracking.registry import NoFrontError, load_front, load_trials, resolve_model, study_names
from search.tracking.trial_runs import TrialLog
from search.trials.journal import read_trials
from spaces.study import StudySpec
from tests.search.tiny_records import record
from tests.search.tiny_study import tiny_study
from tests.search.tracking_server import TrackingServer, tracking_server

# Ray Train 2.60 uses what Ray Data 2.60 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::Warning:ray.data.context")

SENTENCES = ["ba bel", "dim fo gun", "nar pik"]


@pytest.fixture
def dead_end() -> Iterator[str]:
    """An address on loopback where nobody answers, as long as the test runs."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A real database; making one takes seconds."""
    return create_store(Store(tmp_path_factory.mktemp("tracking")))


# Addresses.


@pytest.mark.parametrize(
    ("text", "remembered"),
    [
        ("http://127.0.0.1:5000/", "http://127.0.0.1:5000"),
        ("https://mlflow.example.org", "https://mlflow.example.org"),
        ("https://mlflow.example.org:8443/team/a/", "https://mlflow.example.org:8443/team/a"),
        ("http://[::1]:5000", "http://[::1]:5000"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("sqlite:///mlflow.db", f"sqlite:///{Path.cwd() / 'mlflow.db'}"),
    ],
)
def test_an_address_is_remembered_in_one_form(text: str, remembered: str) -> None:
    assert require_tracking_uri(text) == remembered
    assert require_tracking_uri(remembered) == remembered


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("127.0.0.1:5000", "is http://HOST:PORT"),
        ("ftp://host/", "is http://HOST:PORT"),
        ("databricks", "is http://HOST:PORT"),
        ("postgresql://host/db", "is http://HOST:PORT"),
        ("file:///data/mlruns", "is http://HOST:PORT"),
        ("", "is http://HOST:PORT"),
        ("http://", "is http://HOST:PORT"),
        ("http://host:0", "is http://HOST:PORT"),
        ("http://host:99999", "is http://HOST:PORT"),
        ("http://host:port", "is http://HOST:PORT"),
        ("http://a host:80", "is http://HOST:PORT"),
        ("http://host:80?x=1", "is http://HOST:PORT"),
        ("http://host:80/#/experiments", "is http://HOST:PORT"),
        ("http://host\n.example", "is http://HOST:PORT"),
        ("sqlite://", "is http://HOST:PORT"),
        ("sqlite:///", "a file's path"),
        ("sqlite:///:memory:", "a file's path"),
        ("sqlite:///a.db?mode=ro", "a file's path"),
        ("http://me:secret@host:80", "MLFLOW_TRACKING_USERNAME"),
    ],
)
def test_any_other_address_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        require_tracking_uri(text)
    assert "secret" not in str(caught.value)


def test_a_wrong_address_is_one_message_before_anything_else(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["search", "quickstart", "--tracking-uri", "localhost:5000"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "is http://HOST:PORT" in error and "localhost:5000" in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


# A server that does not answer.


@pytest.mark.parametrize("command", [["search", "quickstart"], ["front"], ["embed", "toy", __file__]])
def test_a_server_that_does_not_answer_is_told_at_once(
    command: list[str], dead_end: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    start = time.monotonic()
    assert main([*command, "--store", str(tmp_path / "store"), "--tracking-uri", dead_end]) == 2
    assert time.monotonic() - start < 15.0  # of which most is the import of MLflow
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if not line.startswith("time budget")]
    assert len(lines) == 1 and dead_end in lines[0] and "Connection refused" in lines[0]
    assert not (tmp_path / "store" / "tracking.json").exists()


class _Refusing(BaseHTTPRequestHandler):
    """A proxy that lets nobody through."""

    def do_GET(self) -> None:
        self.send_error(403, "Not allowed by the proxy")

    do_POST = do_CONNECT = do_GET  # noqa: N815

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def refusing_proxy() -> Iterator[str]:
    """The address of a proxy that answers every request with status 403."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize("answers", [True, False])
def test_a_proxy_before_a_server_is_named_as_the_cause(
    variable: str, answers: bool, refusing_proxy: str, dead_end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    proxy = refusing_proxy if answers else dead_end.removeprefix("http://")
    monkeypatch.setenv(variable, f"http://me:secret@{proxy}")
    store = Store(tmp_path, "http://127.0.0.1:5000")
    explained = f"{variable} sends requests for 127.0.0.1 to the proxy {proxy}; add 127.0.0.1 to NO_PROXY"
    with pytest.raises(ValueError, match=re.escape(explained)) as caught:
        require_tracking(store)
    assert explained in reason_of(caught.value) and "secret" not in str(caught.value)
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    with pytest.raises(ValueError, match="an MLflow server must answer") as caught:
        require_tracking(Store(tmp_path, dead_end))
    assert "proxy" not in str(caught.value)


def test_reading_fails_on_a_server_that_is_away_as_writing_does(dead_end: str, tmp_path: Path) -> None:
    """So a registration, which reads the trials that it sums up, is tried again in either case."""
    store = Store(tmp_path, dead_end)
    trials, front = lambda: load_trials(store, "any", COSINE), lambda: load_front(store, "any")
    for read in (trials, front, lambda: study_names(store)):
        with pytest.raises(ValueError, match="Connection refused") as caught:
            read()
        assert isinstance(caught.value, tracking_errors())
        assert not isinstance(caught.value, NoFrontError)  # or a search would take its front for removed
        assert not is_refusal(caught.value)
        assert reason_of(caught.value) == "Connection refused"


def test_something_else_that_answers_is_no_server(tmp_path: Path) -> None:
    class Teapot(threading.Thread):
        def __init__(self) -> None:
            super().__init__(daemon=True)
            self.listening = socket.create_server(("127.0.0.1", 0))

        def run(self) -> None:
            connection, _ = self.listening.accept()
            with connection, self.listening:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 418 I'm a teapot\r\nContent-Length: 5\r\nConnection: close\r\n\r\nshort")

    teapot = Teapot()
    teapot.start()
    uri = f"http://127.0.0.1:{teapot.listening.getsockname()[1]}"
    with pytest.raises(ValueError, match=rf"an MLflow server must answer at {uri}: error code 418"):
        require_tracking(Store(tmp_path, uri))
    teapot.join(10)


def test_no_trial_waits_for_a_server_that_is_away(dead_end: str, tmp_path: Path) -> None:
    said: list[str] = []
    log = TrialLog(Store(tmp_path, dead_end), "away", params={}, objective=COSINE)
    with TrialWriter(log, address=dead_end, say=said.append) as writer:
        start = time.monotonic()
        for number in range(50):
            writer.trial_started(record(number))
            writer.rung_reached(record(number, rungs=[0.8]))
            writer.trial_ended(record(number, rungs=[0.8], state=TrialState.COMPLETE))
        assert time.monotonic() - start < 1.0
        writer.flush(30.0)
        with pytest.raises(tracking_errors(), match="Connection refused") as caught:
            writer.finish([])
        assert not is_refusal(caught.value)
        start = time.monotonic()
    assert time.monotonic() - start < 10.0
    assert len(said) == 1
    assert dead_end in said[0] and "Connection refused" in said[0]


def test_a_mistake_in_writing_is_raised_at_the_end_and_stops_no_trial(database: Store) -> None:
    log = TrialLog(database, "Default", params={}, objective=COSINE)  # not a study's name
    with TrialWriter(log, address="here", say=lambda line: None) as writer:
        writer.trial_started(record(0))
        writer.trial_ended(record(0, rungs=[0.8], state=TrialState.COMPLETE))
        with pytest.raises(ValueError, match="MLflow's own"):
            writer.finish([])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(Caused by NewConnectionError('[Errno 111] Connection refused'))", "Connection refused"),
        ("failed with timeout exception HTTPConnectionPool: Read timed out. (read timeout=5)", "timed out"),
        ("(Caused by ResponseError('too many 503 error responses'))", "503 error"),
        (
            "(Caused by ProxyError('Unable to connect to proxy', x('[Errno 111] Connection r')))",
            "Unable to connect to proxy",
        ),
        ("OSError('Tunnel connection failed: 403 Forbidden')", "Tunnel connection failed: 403 Forbidden"),
        ("API request to endpoint /x failed with error code 401 != 200", "error code 401"),
        ("PERMISSION_DENIED: no\nmore", "PERMISSION_DENIED: no"),
    ],
)
def test_a_reason_is_a_few_words(text: str, reason: str) -> None:
    assert reason_of(RuntimeError(text)) == reason


# A store and where it tracks.


def test_a_store_tracks_in_one_place(database: Store, tmp_path: Path) -> None:
    elsewhere = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    shutil.copyfile(database.database, tmp_path / "elsewhere.db")
    create_store(Store(tmp_path / "store", elsewhere))
    assert Store(tmp_path / "store").tracking_uri == elsewhere
    assert not (tmp_path / "store" / "mlflow.db").exists()
    with pytest.raises(ValueError, match="tracks at one address") as caught:
        create_store(Store(tmp_path / "store", "http://127.0.0.1:5000"))
    assert "tracking.json" in str(caught.value)


def test_a_store_with_its_own_database_does_not_move(database: Store, tmp_path: Path) -> None:
    shutil.copyfile(database.database, tmp_path / "mlflow.db")
    own = create_store(Store(tmp_path))
    create_store(Store(tmp_path, own.tracking_uri))
    assert not (tmp_path / "tracking.json").exists()
    with pytest.raises(ValueError, match="tracks at one address"):
        create_store(Store(tmp_path, "http://127.0.0.1:5000"))


def test_mlflows_own_variable_sends_nothing_anywhere(
    dead_end: str, database: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", dead_end)
    shutil.copyfile(database.database, tmp_path / "mlflow.db")
    store = create_store(Store(tmp_path))
    assert store.tracking_uri == f"sqlite:///{tmp_path / 'mlflow.db'}"
    TrialLog(store, "local", params={}, objective=COSINE).write(record(0))
    assert [trial.name for trial in load_trials(store, "local", COSINE)] == ["trial-0000"]


# Half-done writing, on a real database.


def state_of(store: Store, study: str) -> dict[str, tuple[str, str, list[int], bool]]:
    """By trial: state, status, steps of the curve, whether it has parameters."""
    client = client_of(store)
    experiment = client.get_experiment_by_name(study).experiment_id
    found = {}
    for run in runs_of_kind(client, experiment, "trial"):
        assert run.data.tags[Tag.TRIAL] not in found
        steps = [metric.step for metric in client.get_metric_history(run.info.run_id, TRAINING_LOSS)]
        tags = run.data.tags
        found[tags[Tag.TRIAL]] = (tags["understudy.state"], run.info.status, steps, "seed" in run.data.params)
    return found


class Cut(BaseException):
    """The line is cut."""


@pytest.mark.parametrize("after", [False, True], ids=["asked", "answered"])
@pytest.mark.parametrize("call", range(6))
def test_writing_that_was_cut_anywhere_is_completed_once(
    database: Store, monkeypatch: pytest.MonkeyPatch, call: int, after: bool
) -> None:
    """The line is cut at each call in turn, before or after the database has done what it was asked."""
    study = f"cut-{call}-{after}"
    log = TrialLog(database, study, params={RunParam.CORPUS_KEY: "a"}, objective=COSINE)
    log.run_id("none")
    n_calls = 0

    def cut(name: str) -> None:
        done = getattr(log._client, name)

        def called(*arguments: object, **options: object) -> object:
            nonlocal n_calls
            n_calls += 1
            if n_calls != call + 1:
                return done(*arguments, **options)
            if after:
                done(*arguments, **options)
            raise Cut

        monkeypatch.setattr(log._client, name, called)

    for name in ("create_run", "log_batch", "update_run", "set_terminated"):
        cut(name)
    states = (
        record(3),
        record(3, rungs=[0.8]),
        record(3, rungs=[0.8, 0.9], state=TrialState.COMPLETE, outcome=Outcome(OutcomeKind.COMPLETE)),
    )
    n_cuts = 0
    for state in states:
        try:
            log.write(state)
        except Cut:
            n_cuts += 1
    assert n_cuts == 1
    log.write(states[-1])
    assert state_of(database, study) == {"trial-0003": ("complete", "FINISHED", [1000, 2000], True)}


def test_a_run_that_was_made_twice_is_one(database: Store) -> None:
    log = TrialLog(database, "twice-made", params={}, objective=COSINE)
    log.write(record(0, rungs=[0.8]))
    client = client_of(database)
    experiment = client.get_experiment_by_name("twice-made").experiment_id
    run_id = log.run_id("trial-0000")
    tags = client.get_run(run_id).data.tags
    client.create_run(experiment, tags={name: value for name, value in tags.items() if name.startswith("understudy")})
    log.forget()
    log.write(record(0, rungs=[0.8], state=TrialState.PRUNED))
    assert state_of(database, "twice-made") == {"trial-0000": ("pruned", "FINISHED", [1000], True)}
    assert log.run_id("trial-0000") == run_id


def test_a_run_that_was_left_running_is_ended(database: Store) -> None:
    ended = record(0, rungs=[0.8], state=TrialState.COMPLETE)
    log = TrialLog(database, "reopened", params={}, objective=COSINE)
    with TrialWriter(log, address="here", say=lambda line: None) as writer:
        writer.trial_ended(ended)
        writer.flush(30.0)
        client_of(database).update_run(log.run_id("trial-0000"), status="RUNNING")  # as logging a model into it does
        writer.finish([ended])
    assert state_of(database, "reopened") == {"trial-0000": ("complete", "FINISHED", [1000], True)}


def test_a_trial_that_goes_on_in_the_same_search_takes_over_its_run(database: Store) -> None:
    log = TrialLog(database, "goes-on", params={}, objective=COSINE)
    with TrialWriter(log, address="here", say=lambda line: None) as writer:
        writer.trial_started(record(0))
        writer.rung_reached(record(0, rungs=[0.7]))
        writer.trial_ended(record(0, rungs=[0.7], state=TrialState.INTERRUPTED))
        writer.trial_started(record(1, rungs=[0.7], continues=0))
        last = record(1, rungs=[0.7, 0.8], state=TrialState.COMPLETE, continues=0)
        writer.trial_ended(last)
        writer.finish([record(0, rungs=[0.7], state=TrialState.INTERRUPTED), last])
    assert state_of(database, "goes-on") == {"trial-0001": ("complete", "FINISHED", [1000, 2000], True)}


def test_a_trial_that_goes_on_with_one_of_which_nothing_was_written_takes_over_the_run_before(database: Store) -> None:
    log = TrialLog(database, "goes-on-twice", params={}, objective=COSINE)
    first = record(0, rungs=[0.7], state=TrialState.INTERRUPTED)
    second = record(1, rungs=[0.7], state=TrialState.INTERRUPTED, continues=0)
    last = record(2, rungs=[0.7, 0.8], state=TrialState.COMPLETE, continues=1)
    with TrialWriter(log, address="here", say=lambda line: None) as writer:
        writer.trial_started(record(0))
        writer.flush(30.0)
    resumed = TrialLog(database, "goes-on-twice", params={}, objective=COSINE)
    with TrialWriter(resumed, address="here", say=lambda line: None) as writer:
        writer.backfill([first, second])
        writer.trial_started(replace(last, state=TrialState.RUNNING))
        writer.finish([first, second, last])
    assert state_of(database, "goes-on-twice") == {"trial-0002": ("complete", "FINISHED", [1000, 2000], True)}


def test_what_mlflow_refuses_keeps_nothing_else_back(database: Store) -> None:
    said: list[str] = []
    log = TrialLog(database, "refused", params={}, objective=COSINE)
    bad = replace(record(0, rungs=[0.8], state=TrialState.COMPLETE), point={"a name\nof two lines": 1})
    good = record(1, rungs=[0.8], state=TrialState.COMPLETE)
    with TrialWriter(log, address="here", say=said.append) as writer:
        writer.trial_ended(bad)
        writer.trial_ended(good)
        with pytest.raises(tracking_errors(), match="trial-0000 is refused"):
            writer.finish([bad, good])
    assert state_of(database, "refused")["trial-0001"] == ("complete", "FINISHED", [1000], True)
    assert [line for line in said if "trial-0000 is refused" in line] == said[:1]


# A real server.


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    with tracking_server(tmp_path_factory.mktemp("server") / "mlflow") as running:
        yield running


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudySpec:
    study = tiny_study(tmp_path_factory.mktemp("tiny"))
    search = replace(study.search, n_trials=3)
    return replace(study, search=search, graduation=replace(study.graduation, n_tokens=2000, max_students=1))


class Heard:
    """A reporter that remembers, and does something when a step begins."""

    def __init__(self, **on_step: object) -> None:
        self.lines: list[str] = []
        self._on_step = on_step

    def step(self, what: str) -> object:
        self.lines.append(what)
        for word, act in self._on_step.items():
            if what.startswith(word):
                act()  # type: ignore[operator]
        return lambda done, total: None

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.mark.slow
def test_a_study_outlives_its_server_and_registers_there_when_it_is_back(
    server: TrackingServer,
    study: StudySpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    store = Store(tmp_path / "store", server.uri)
    monkeypatch.setattr("search.study.run._REGISTRATION_TIMEOUT_S", 0.0)
    first = Heard(training=server.kill)  # the static table, before the first trial
    with pytest.raises(ValueError, match=r"cannot be registered .* the same command registers it once"):
        run_search(study, store=store, progress=first)  # type: ignore[arg-type]
    assert capfd.readouterr().err.count(f"tracking at {server.uri} is unreachable (Connection refused)") == 1
    measured = read_trials(store.study_folder(study.name), study.name)
    assert len([r for r in measured if r.state in (TrialState.COMPLETE, TrialState.PRUNED)]) == study.search.n_trials

    server.start()
    monkeypatch.undo()
    document = run_search(study, store=Store(store.root), progress=Heard())  # type: ignore[arg-type]
    assert read_trials(store.study_folder(study.name), study.name) == measured
    client = client_of(store)
    experiment = client.get_experiment_by_name(study.name).experiment_id
    runs = {run.data.tags[Tag.TRIAL]: run for run in runs_of_kind(client, experiment, "trial")}
    assert Counter(run.data.tags["understudy.state"] for run in runs.values()) == Counter(r.state for r in measured)
    for r in measured:
        steps = [metric.step for metric in client.get_metric_history(runs[r.name].info.run_id, TRAINING_LOSS)]
        assert len(steps) == len(set(steps))
        assert {rung.n_tokens for rung in r.rungs} <= set(steps)
    assert {run.info.status for run in client.search_runs([experiment])} <= {"FINISHED", "KILLED"}
    assert "study.json" in {file.path for file in client.list_artifacts(_summary(client, experiment))}

    # Whoever has nothing but the address reads the same.
    colleague = Store(tmp_path / "colleague", server.uri)
    assert load_front(colleague, study.name).students == document.students
    for student in document.students:
        folder = resolve_model(colleague, f"{study.name}/{student.version}")
        assert folder.is_relative_to(colleague.cache)
        own = store.study_folder(study.name) / "graduation" / student.name / "student"
        np.testing.assert_array_equal(load(folder).encode(SENTENCES), load(own).encode(SENTENCES))
    server.kill()
    with pytest.raises(ValueError, match="must answer at"):
        load_front(colleague, study.name)
    server.start()


def _summary(client: object, experiment: str) -> str:
    (summary,) = runs_of_kind(client, experiment, "summary")  # type: ignore[arg-type]
    found: str = summary.info.run_id
    return found


@pytest.mark.slow
def test_two_stores_do_not_mix_their_studies_on_one_server(
    server: TrackingServer, study: StudySpec, tmp_path: Path
) -> None:
    server.start()
    named = replace(study, name="shared-name")
    first = create_store(Store(tmp_path / "first", server.uri))
    claim_experiment(first, named)
    claim_experiment(first, named)
    second = create_store(Store(tmp_path / "second", server.uri))
    with pytest.raises(ValueError, match=r"belongs to the store that made it.*--name"):
        claim_experiment(second, named)
    with pytest.raises(ValueError, match="belongs to the store"):
        run_search(named, store=Store(tmp_path / "third", server.uri), progress=Heard())  # type: ignore[arg-type]
    assert not (tmp_path / "third" / "tracking.json").exists()
    client = client_of(first)
    client.create_registered_model("model-of-another")
    with pytest.raises(ValueError, match="the model of a study belongs to the store"):
        claim_experiment(first, replace(study, name="model-of-another"))
    assert "shared-name" not in study_names(first)  # no front yet
