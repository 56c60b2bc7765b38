# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from runtime import load
from search.cli.main import main
from search.records.front import MeasuredStudent
from search.records.objective import COSINE
from search.storage.store import Store
from search.storage.study_state import STUDY, StudyState
from search.study.clock import CLOCK
from search.tracking.async_writer import TrialWriter
from search.tracking.trial_runs import TrialLog
from spaces.study import parse_study
from tests.search.cli_world import Bench, make_bench, write_teacher
from tests.search.toy_search import record_search

ROOT = Path(__file__).resolve().parents[3]
MOST_SECONDS = 5.0
MOST_PROCESS_SECONDS = 10.0  # with all imports, on a slow machine; others need two or three


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A good study, a good teacher, a store with a front: made once, copied for each test."""
    import trainers.teacher.load  # noqa: F401  (in the process once, so that times below are of the work)

    return make_bench(tmp_path_factory.mktemp("made"))


@pytest.fixture
def bench(made: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Files of its own for every test, in the current folder."""
    shutil.copytree(made.folder, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("store"))
    monkeypatch.chdir(tmp_path)
    return Bench(folder=tmp_path, store=made.store)


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The message of a command line that must be refused: exit status 2, in time, one message, nothing on stdout."""
    start = time.perf_counter()
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as ended:  # argparse's way out
        status = int(ended.code or 0)
    seconds = time.perf_counter() - start
    printed = capsys.readouterr()
    assert status == 2
    assert seconds < MOST_SECONDS
    assert printed.out == ""
    assert printed.err.startswith("understudy: ")
    assert printed.err.count("understudy: ") == 1
    assert "Traceback" not in printed.err
    return printed.err


def says(message: str, *parts: str) -> None:
    assert [part for part in parts if part not in message] == [], message


# Study files: validate and search read them alike


@pytest.mark.parametrize("command", ["validate", "search"])
class TestStudyFile:
    def test_missing(self, bench: Bench, capsys: pytest.CaptureFixture[str], command: str) -> None:
        says(fails(capsys, command, "nowhere.yaml"), "nowhere.yaml", "quickstart")

    def test_folder(self, bench: Bench, capsys: pytest.CaptureFixture[str], command: str) -> None:
        says(fails(capsys, command, bench.folder), "must be a file", "folder")

    def test_empty(self, bench: Bench, capsys: pytest.CaptureFixture[str], command: str) -> None:
        (bench.folder / "empty.yaml").touch()
        says(fails(capsys, command, "empty.yaml"), "empty.yaml")

    def test_wrong_encoding(self, bench: Bench, capsys: pytest.CaptureFixture[str], command: str) -> None:
        (bench.folder / "latin.yaml").write_bytes("name: Gemüse\n".encode("latin-1"))
        says(fails(capsys, command, "latin.yaml"), "UTF-8", "0xfc")

    def test_invalid_yaml(self, bench: Bench, capsys: pytest.CaptureFixture[str], command: str) -> None:
        (bench.folder / "torn.yaml").write_text("name: [unclosed\nteachers: {")
        says(fails(capsys, command, "torn.yaml"), "torn.yaml", "line")

    def test_unknown_key_names_the_nearest(
        self, bench: Bench, capsys: pytest.CaptureFixture[str], command: str
    ) -> None:
        says(fails(capsys, command, bench.study(graduatoin={"share": 0.2})), "graduatoin", "graduation", "line")

    def test_all_mistakes_at_once(self, bench: Bench, capsys: pytest.CaptureFixture[str], command: str) -> None:
        study = bench.study(search={"rungs": [500, 400], "n_trials": 0, "time_budget": "-5m"}, name="a/b")
        says(fails(capsys, command, study), "rungs", "n_trials", "time_budget", "a/b")

    def test_rungs_that_do_not_increase(self, bench: Bench, capsys: pytest.CaptureFixture[str], command: str) -> None:
        study = bench.study(search={"rungs": [500, 400], "n_trials": 4})
        says(fails(capsys, command, study), "rungs", "increase", "500, 400")

    def test_negative_budget(self, bench: Bench, capsys: pytest.CaptureFixture[str], command: str) -> None:
        says(fails(capsys, command, bench.study(search={"rungs": [500], "time_budget": "-5m"})), "time_budget", "-5m")

    def test_no_trials(self, bench: Bench, capsys: pytest.CaptureFixture[str], command: str) -> None:
        says(fails(capsys, command, bench.study(search={"rungs": [500], "n_trials": 0})), "n_trials", "at least 1", "0")

    def test_impossible_points(self, bench: Bench, capsys: pytest.CaptureFixture[str], command: str) -> None:
        study = bench.study(space={"width": [16, 12], "n_heads": [2, 8]})
        says(fails(capsys, command, study), "n_heads must divide the width", "12", "8")

    def test_points_that_the_teacher_makes_impossible(
        self, bench: Bench, capsys: pytest.CaptureFixture[str], command: str
    ) -> None:
        message = fails(capsys, command, bench.study(space={"n_layers": [1, 2], "n_heads": [2, 3]}))
        says(message, "n_heads must divide the width", "n_heads=3", "width=16")

    def test_latency_profile_longer_than_the_teacher(
        self, bench: Bench, capsys: pytest.CaptureFixture[str], command: str
    ) -> None:
        says(fails(capsys, command, bench.study(profile={"n_tokens": 512})), "n_tokens", "512", "24")

    def test_missing_text(self, bench: Bench, capsys: pytest.CaptureFixture[str], command: str) -> None:
        says(fails(capsys, command, bench.study(sources=["gone.txt"])), "gone.txt")

    def test_empty_text(self, bench: Bench, capsys: pytest.CaptureFixture[str], command: str) -> None:
        (bench.folder / "empty.txt").touch()
        says(fails(capsys, command, bench.study(sources=["empty.txt"])), "empty.txt", "empty")

    def test_text_of_another_encoding(self, bench: Bench, capsys: pytest.CaptureFixture[str], command: str) -> None:
        (bench.folder / "latin.txt").write_bytes("a fine sentence\nGemüse and other words\n".encode("latin-1"))
        says(fails(capsys, command, bench.study(sources=["latin.txt"])), "latin.txt", "line 2", "UTF-8", "iconv")

    def test_text_of_two_bytes_a_letter(self, bench: Bench, capsys: pytest.CaptureFixture[str], command: str) -> None:
        (bench.folder / "wide.txt").write_bytes("a fine sentence of words\n".encode("utf-16"))
        says(fails(capsys, command, bench.study(sources=["wide.txt"])), "wide.txt", "UTF-8")

    def test_no_sentence_left(self, bench: Bench, capsys: pytest.CaptureFixture[str], command: str) -> None:
        (bench.folder / "short.txt").write_text("too short\n" * 50)
        says(fails(capsys, command, bench.study(sources=["short.txt"])), "no sentences are left", "50", "min_")

    def test_too_few_sentences_to_hold_out(
        self, bench: Bench, capsys: pytest.CaptureFixture[str], command: str
    ) -> None:
        (bench.folder / "few.txt").write_text("\n".join(f"sentence number {i} of a few words" for i in range(40)))
        says(fails(capsys, command, bench.study(sources=["few.txt"])), "held_out", "40", "lower")

    def test_missing_column(self, bench: Bench, capsys: pytest.CaptureFixture[str], command: str) -> None:
        (bench.folder / "table.csv").write_text("id,words\n1,a fine sentence of words\n")
        study = bench.study(sources=[{"source": "table.csv", "column": "text"}])
        says(fails(capsys, command, study), "table.csv", "'text'", "'words'")

    def test_truncated_gzip(self, bench: Bench, capsys: pytest.CaptureFixture[str], command: str) -> None:
        (bench.folder / "cut.txt.gz").write_bytes(bytes.fromhex("1f8b0800000000000003") + b"\x01\x02")
        says(fails(capsys, command, bench.study(sources=["cut.txt.gz"])), "cut.txt.gz", "gzip")

    def test_missing_teacher(self, bench: Bench, capsys: pytest.CaptureFixture[str], command: str) -> None:
        says(fails(capsys, command, bench.study(teachers=["no-such-folder"])), "no-such-folder", "folder")

    def test_teacher_without_tokenizer(self, bench: Bench, capsys: pytest.CaptureFixture[str], command: str) -> None:
        (bench.folder / "teacher" / "tokenizer.json").unlink()
        says(fails(capsys, command, bench.study()), "teacher", "tokenizer")

    def test_teacher_with_only_a_pickle(self, bench: Bench, capsys: pytest.CaptureFixture[str], command: str) -> None:
        weights = bench.folder / "teacher" / "model.safetensors"
        weights.rename(weights.with_name("pytorch_model.bin"))
        says(fails(capsys, command, bench.study()), "pytorch_model.bin", "pickle", "save_pretrained")

    def test_teacher_of_an_unknown_family(self, bench: Bench, capsys: pytest.CaptureFixture[str], command: str) -> None:
        path = bench.folder / "teacher" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "gpt2"}))
        says(fails(capsys, command, bench.study()), "gpt2", "bert")

    def test_teacher_with_damaged_weights(self, bench: Bench, capsys: pytest.CaptureFixture[str], command: str) -> None:
        weights = bench.folder / "teacher" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-64])
        says(fails(capsys, command, bench.study()), "model.safetensors", "damaged")

    def test_teacher_with_another_checksum(
        self, bench: Bench, capsys: pytest.CaptureFixture[str], command: str
    ) -> None:
        study = bench.study(teachers=[{"source": "teacher", "sha256": "0" * 64}])
        says(fails(capsys, command, study), "SHA-256", "0" * 64)

    def test_teachers_of_different_dimensions(
        self, bench: Bench, capsys: pytest.CaptureFixture[str], command: str
    ) -> None:
        write_teacher(bench.folder / "wider", width=24)
        says(fails(capsys, command, bench.study(teachers=["teacher", "wider"])), "one dimension", "16", "24")

    def test_package_that_is_not_installed(
        self, bench: Bench, capsys: pytest.CaptureFixture[str], command: str
    ) -> None:
        message = fails(capsys, command, bench.study(teachers=["package:no-such-model"]))
        says(message, "no-such-model", "pip install")

    def test_hub_id_that_leads_elsewhere(self, bench: Bench, capsys: pytest.CaptureFixture[str], command: str) -> None:
        says(fails(capsys, command, bench.study(teachers=["hub:../../etc"])), "../../etc")


# Options of search


def test_hub_teacher_that_cannot_be_had(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    message = fails(capsys, "search", bench.study(teachers=["hub:nobody/nothing"]), "--store", "new")
    says(message, "nobody/nothing", "HF_HUB_OFFLINE")


def test_a_hub_teacher_is_not_downloaded_to_validate(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(bench.study(teachers=["hub:nobody/nothing"]))]) == 0


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--trials", "0"], ["--trials", "at least 1", "'0'"]),
        (["--trials", "many"], ["--trials", "'many'"]),
        (["--time-budget", "-5m"], ["--time-budget", "positive", "'-5m'"]),
        (["--time-budget", "0s"], ["--time-budget", "positive", "'0s'"]),
        (["--time-budget", "soon"], ["--time-budget", "2h", "'soon'"]),
        (["--seed", "-1"], ["--seed", "0 to 4294967295", "'-1'"]),
        (["--name", "../elsewhere"], ["--name", "'../elsewhere'"]),
        (["--name", "a/b"], ["--name", "'a/b'"]),
        (["--address", "somewhere"], ["--address", "HOST:PORT", "'somewhere'"]),
        (["--address", "127.0.0.1:99999"], ["--address", "HOST:PORT", "99999"]),
        (["--store", ""], ["--store", "''"]),
        (["--frobnicate"], ["--frobnicate"]),
    ],
    ids=lambda value: " ".join(value) if value and value[0].startswith("--") else "",
)
def test_an_option_of_search_that_makes_no_sense(
    bench: Bench, capsys: pytest.CaptureFixture[str], options: list[str], parts: list[str]
) -> None:
    says(fails(capsys, "search", bench.study(), *options), *parts)


def test_an_address_at_which_nobody_listens(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        message = fails(capsys, "search", bench.study(), "--address", address, "--store", "new")
    says(message, address, "no Ray cluster")


def test_a_store_that_is_a_file(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    says(fails(capsys, "search", bench.study(), "--store", "text.txt"), "text.txt", "store", "--store")


def test_a_store_below_a_file(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    says(fails(capsys, "search", bench.study(), "--store", "text.txt/below"), "text.txt", "store")


# What the registry is asked


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["front", "nowhere"], ["nowhere", "toy"]),
        (["front", "toi"], ["toi", "did you mean toy"]),
        (["front", "../toy"], ["../toy"]),
        (["select", "toy", "--max-latency-ms", "0.001"], ["0.001 ms", "nearest", "trial-0001", "0.1"]),
        (["select", "toy", "--min-fidelity", "0.999"], ["0.999", "nearest", "trial-0002", "0.95"]),
        (["select", "toy", "--min-fidelity", "1.5"], ["min_fidelity", "mean cosine", "-1 to 1", "1.5"]),
        (["select", "toy", "--max-latency-ms", "nan"], ["--max-latency-ms", "'nan'"]),
        (["select", "toy", "--max-latency-ms", "-2"], ["--max-latency-ms", "'-2'"]),
        (["select", "toy", "--balanced", "--max-latency-ms", "2"], ["not allowed with"]),
        (["select", "toy"], ["--max-latency-ms", "--balanced", "required"]),
        (["select", "toy", "--balanced", "--alias", "fastest"], ["fastest", "production"]),
        (["select", "toy", "--balanced", "--alias", "../up"], ["alias", "../up"]),
        (["export", "unknown", "out", "--format", "folder"], ["unknown", "toy"]),
        (["export", "toy@nobody", "out", "--format", "folder"], ["nobody", "balanced"]),
        (["export", "toy/99", "out", "--format", "folder"], ["99", "1, 2"]),
        (["export", "../toy", "out", "--format", "folder"], ["../toy"]),
        (["export", "toy@fastest", "out", "--format", "pickle"], ["pickle", "onnx"]),
        (["export", "toy@fastest", "text.txt", "--format", "folder"], ["text.txt"]),
        (
            ["export", "toy@most-faithful", "out", "--format", "sentence-transformers"],
            ["Switch", "sentence-transformers"],
        ),
        (["embed", "unknown", "text.txt"], ["unknown", "toy"]),
        (["embed", "toy@fastest", "gone.txt"], ["gone.txt"]),
        (["embed", "toy@fastest", "text.txt", "--out", "vectors.txt"], ["vectors.txt", ".npy"]),
        (["embed", "toy@fastest", "text.txt", "--out", "no/such/vectors.npy"], ["no/such"]),
        (["report", "toy", "no/such/page.html"], ["no/such"]),
        (["report", "nowhere", "page.html"], ["nowhere", "toy"]),
        (["ui", "--port", "0"], ["--port", "'0'"]),
        (["serve", "unknown"], ["unknown", "toy"]),
        (["serve", "toy@nobody"], ["nobody", "balanced"]),
        (["serve", "toy", "--port", "65536"], ["--port", "65535", "'65536'"]),
        (["serve", "toy", "--max-batch", "0"], ["--max-batch", "at least 1", "'0'"]),
        (["frobnicate"], ["frobnicate", "search"]),
        ([], ["COMMAND"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_question_that_has_no_answer(
    bench: Bench, capsys: pytest.CaptureFixture[str], arguments: list[str], parts: list[str]
) -> None:
    store = ["--store", str(bench.store.root)] if arguments and arguments[0] != "frobnicate" else []
    says(fails(capsys, *arguments, *store), *parts)
    assert not (bench.folder / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["front"],
        ["select", "--balanced"],
        ["export", "toy", "out", "--format", "folder"],
        ["embed", "toy", "text.txt"],
        ["serve", "toy"],
        ["report", "page.html"],
        ["ui"],
    ],
    ids=lambda value: value[0],
)
def test_a_store_that_is_not_there(bench: Bench, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    says(fails(capsys, *arguments, "--store", "nowhere"), "nowhere", "no store")
    assert not (bench.folder / "nowhere").exists()


def test_a_store_with_a_damaged_database(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    (bench.folder / "damaged").mkdir()
    (bench.folder / "damaged" / "mlflow.db").write_bytes(b"no database" * 100)
    says(fails(capsys, "front", "--store", "damaged"), "mlflow.db", "sqlite")


@pytest.mark.parametrize(
    ("content", "parts"),
    [(b"", ["no sentence"]), (b"\n \n", ["no sentence"]), ("ü".encode("latin-1"), ["UTF-8", "0xfc"])],
    ids=["empty", "blank", "latin"],
)
def test_a_file_of_sentences_that_holds_none(
    bench: Bench, capsys: pytest.CaptureFixture[str], content: bytes, parts: list[str]
) -> None:
    (bench.folder / "bad.txt").write_bytes(content)
    says(fails(capsys, "embed", "toy", "bad.txt", "--store", bench.store.root), "bad.txt", *parts)


def test_a_folder_that_is_no_student(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    says(fails(capsys, "embed", "teacher", "text.txt", "--store", bench.store.root), "teacher")


def test_a_student_with_damaged_weights(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    weights = bench.folder / "student" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    says(fails(capsys, "embed", "student", "text.txt"), "model.safetensors")
    says(fails(capsys, "serve", "student", "--port", "0"), "model.safetensors")


def test_a_port_that_is_taken(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        says(fails(capsys, "ui", "--store", bench.store.root, "--port", port), str(port), "--port")
        says(fails(capsys, "serve", "toy@fastest", "--store", bench.store.root, "--port", port), str(port), "--port")


def test_a_mistake_can_show_where_it_was_noticed(bench: Bench) -> None:
    with pytest.raises(FileNotFoundError):
        main(["validate", "nowhere.yaml", "--traceback"])


# What works


def test_an_error_from_inside_is_no_bad_input_and_its_traceback_is_kept(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **options: object) -> NoReturn:
        raise ValueError("operands could not be broadcast together")

    def broken_mkdir(*arguments: object, **options: object) -> NoReturn:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "errors")

    monkeypatch.setattr(json, "dumps", broken)
    assert main(["front", "--store", str(bench.store.root), "--json"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("understudy: internal error, please report it: ValueError: operands could not")
    file = Path(message.strip().rpartition(" is in ")[2])
    assert file.parent == bench.store.root / "errors" and "could not be broadcast together" in file.read_text()
    monkeypatch.setattr(Path, "mkdir", broken_mkdir)
    assert main(["front", "--store", str(bench.store.root), "--json"]) == 1
    file = Path(capsys.readouterr().err.strip().rpartition(" is in ")[2])
    assert bench.store.root not in file.parents and "could not be broadcast together" in file.read_text()
    shutil.rmtree(file.parent)
    assert main(["doctor", "--json"]) == 1  # it has no store
    assert "in _print_json" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["validate", "search"])
def test_a_filter_that_drops_much_is_told_before_anything_is_computed(
    command: str, bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = bench.folder / "mixed.txt"
    lines = [f"sentence number {i} of a few words" for i in range(300)] + [f"nowordsbutone{i:03d}" for i in range(100)]
    text.write_text("\n".join(lines))
    (tmp_path / "empty-teacher").mkdir()
    file = bench.study(sources=[text.name], teachers=[str(tmp_path / "empty-teacher")])  # read after the text
    store = ["--store", str(tmp_path / "store")] if command == "search" else []
    assert main([command, str(file), *store]) == 2
    says(
        capsys.readouterr().err,
        f"warning: 100 of 400 texts of {text} (25%) have fewer than 3 words; lower corpus.min_words",
    )


ENTRY_KEYS = {
    *("name", "version", "aliases", "n_layers", "spec", "latency_ms", "latency_interval_ms", "speedup"),
    *("n_parameters", "n_bytes", "fidelity"),
}
FIDELITY_KEYS = {
    *("cosine", "cosine_p5", "cosine_centred", "spearman", "overlap_at_1", "overlap_at_10", "constant_baseline"),
}


def test_front_prints_one_json_document(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["front", "--json", "--store", str(bench.store.root)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"study", "teacher", "profile", "references", "students"}
    assert [entry["name"] for entry in document["students"]] == ["trial-0001", "trial-0002"]
    assert [entry["name"] for entry in document["references"]] == ["teacher"]
    for entry in (*document["students"], *document["references"]):
        assert set(entry) == ENTRY_KEYS
        assert set(entry["fidelity"]) == FIDELITY_KEYS


def test_what_is_asked_for_goes_to_stdout_alone(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, parts in {
        ("front", "toy", "--store", bench.store.root): ["trial-0001", "trial-0002", "teacher", "40.0x", "top 10"],
        ("validate", bench.study()): ["study toy-study", "n_layers", "text.txt"],
        ("doctor",): ["python ", "engine: "],
        ("doctor", "--json"): ['"instruction_sets": '],
    }.items():
        assert main(list(map(str, arguments))) == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        says(printed.out, *parts)


def test_a_reader_that_has_seen_enough_is_no_error(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments in (["front", "toy"], ["front", "toy", "--json"], ["select", "toy", "--balanced"], ["doctor"]):
        reader, writer = os.pipe()
        os.close(reader)
        with monkeypatch.context() as patch, open(writer, "w") as closed:
            patch.setattr(sys, "stdout", closed)
            assert main([*arguments, *(["--store", str(bench.store.root)] if arguments != ["doctor"] else [])]) == 0
        assert "Traceback" not in capsys.readouterr().err


def test_a_name_that_the_encoding_lacks_is_escaped(bench: Bench) -> None:
    command = [sys.executable, "-m", "search", "validate", str(bench.study(teachers=["package:Ünïcode"]))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert finished.returncode in (0, 2)  # whether such a package is installed is not the question
    assert "Traceback" not in finished.stderr and "\\xdcn\\xefcode" in finished.stdout + finished.stderr


def selected(capsys: pytest.CaptureFixture[str], bench: Bench, *wish: str) -> dict[str, object]:
    capsys.readouterr()
    assert main(["select", "toy", *wish, "--json", "--store", str(bench.store.root)]) == 0
    document: dict[str, object] = json.loads(capsys.readouterr().out)
    return document


def test_select_answers_a_budget(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    entry = selected(capsys, bench, "--max-latency-ms", "0.5")
    assert set(entry) == ENTRY_KEYS | {"uri"}
    assert (entry["name"], entry["uri"]) == ("trial-0001", f"models:/toy/{entry['version']}")
    assert selected(capsys, bench, "--max-latency-ms", "50")["name"] == "trial-0002"
    assert selected(capsys, bench, "--min-fidelity", "0.9")["name"] == "trial-0002"


def test_select_takes_a_student_by_its_name(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert selected(capsys, bench, "--student", "trial-0002")["uri"] == "models:/toy/2"
    for name, said in (("teacher", "is the baseline"), ("trial-9", "there are trial-0001, trial-0002")):
        assert main(["select", "toy", "--student", name, "--store", str(bench.store.root)]) == 2
        captured = capsys.readouterr()
        assert said in captured.err and captured.err.count("\n") == 1 and captured.out == ""
    for command in (["export", "toy@teacher", "out", "--format", "onnx"], ["embed", "toy@teacher", "text.txt"]):
        assert main([*command, "--store", str(bench.store.root)]) == 2
        assert "is the baseline, measured in PyTorch, and no student" in capsys.readouterr().err


def test_select_sets_an_alias_that_export_and_embed_understand(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = selected(capsys, bench, "--max-latency-ms", "0.5", "--alias", "production")
    assert "production" in str(entry["aliases"])
    assert main(["export", "toy@production", "out", "--format", "folder", "--store", str(bench.store.root)]) == 0
    assert capsys.readouterr().out == "out\n"
    assert main(["embed", "toy@production", "text.txt", "--store", str(bench.store.root)]) == 0
    assert capsys.readouterr().out == "text.txt.npy\n"
    lines = Path("text.txt").read_text().splitlines()
    assert np.array_equal(np.load("text.txt.npy"), load("out").encode(lines))


def test_embed_keeps_lines_and_rows_together(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    Path("lines.txt").write_text("one sentence\n\nanother sentence\r\n", newline="")
    assert main(["embed", "student", "lines.txt", "--out", "rows.npy"]) == 0
    assert np.array_equal(np.load("rows.npy"), load("student").encode(["one sentence", "", "another sentence"]))


def test_report_writes_the_page_and_prints_its_path(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "page.html", "--store", str(bench.store.root)]) == 0
    assert capsys.readouterr().out == "page.html\n"
    says(Path("page.html").read_text("utf-8"), "<html", "trial-0002")


def test_report_shows_the_search_if_its_journal_is_there(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(bench.store.root, "moved")
    record_search(Store(Path("moved")), n_trials=3)
    assert main(["report", "page.html", "--store", "moved"]) == 0
    page = Path("page.html").read_text("utf-8")
    says(page, "The search", "3 trials began", "Too few trials", "trial-0002")
    capsys.readouterr()
    assert main(["front", "--search", "--store", "moved"]) == 0
    says(capsys.readouterr().out, "trial-0002", "3 complete", "Too few trials")
    assert main(["front", "--search", "--json", "--store", str(bench.store.root)]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["study"] == "toy"
    says(printed.err, "no journal")


def test_report_of_an_interrupted_search_shows_what_there_is(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(bench.store.root, "moved")
    store = Store(Path("moved"))
    study = parse_study(bench.study(teachers=["package:some-teacher"]).read_text(), folder=bench.folder)
    StudyState.of(store, "begun").write(STUDY, study)
    with TrialWriter(TrialLog(store, "begun", params={}, objective=COSINE), address="here", say=print) as writer:
        record_search(store, name="begun", n_trials=3, stop_after=4, observers=[writer])
        writer.finish([])
    assert main(["report", "begun", "page.html", "--store", "moved"]) == 0
    page = Path("page.html").read_text("utf-8")
    says(page, "No student of some-teacher has been measured at the end yet", "The search", "1 interrupted")
    assert 'id="mark-t0"' in page


def test_the_store_may_come_from_the_environment(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERSTUDY_STORE", str(bench.store.root))
    assert main(["select", "--balanced"]) == 0
    assert capsys.readouterr().out.startswith("models:/toy/")


# Whole processes


def understudy(*arguments: object) -> subprocess.Popen[str]:
    """The command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "search", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_a_full_disk_is_one_message_whatever_the_command(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """What sqlite says on a full disk comes from a trigger here: it takes the same way through MLflow."""
    store = Store(Path(shutil.copytree(bench.store.root, "full")).resolve())
    with closing(sqlite3.connect(store.database)) as connection:
        connection.execute(
            "create trigger full before insert on registered_model_aliases "
            "begin select raise(abort, 'database or disk is full'); end"
        )
    alias = ("select", "toy", "--balanced", "--alias", "new")
    error = fails(capsys, *alias, "--store", store.root)
    says(error, f"no space left in {store.root} (", " MB free): free some and run the command again")


@pytest.fixture
def protected(bench: Bench) -> Iterator[Path]:
    """A folder with a copy of the store that this process may read and not write."""
    folder = bench.folder / "protected"
    shutil.copytree(bench.store.root, folder / "store")
    shutil.copy(bench.folder / "text.txt", folder)
    paths = (folder, *folder.rglob("*"))
    user = os.geteuid()
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    if user == 0:  # to root everything is permitted; another user must be able to enter the folders of tests
        for parent in {*bench.folder.parents, *bench.store.root.parents}:
            parent.chmod(parent.stat().st_mode | 0o055)
        os.seteuid(65534)
    try:
        yield folder
    finally:
        os.seteuid(user)
        for path in paths:
            path.chmod(0o755)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["select", "toy", "--balanced", "--alias", "new"], ["{}/store", "must not"]),
        (["report", "toy", "{}/page.html"], ["{}", "Permission denied"]),
        (["export", "toy", "{}/out", "--format", "folder"], ["{}", "Permission denied"]),
        (["export", "toy", "{}/out", "--format", "onnx"], ["{}", "Permission denied"]),
        (["embed", "toy", "{}/text.txt"], ["{}", "Permission denied"]),
        (["embed", "toy", "text.txt", "--out", "{}/rows.npy"], ["{}", "Permission denied"]),
        (["search", "quickstart"], ["{}/store", "can be written", "--store"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_what_must_not_be_written_is_one_message(
    bench: Bench, protected: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], parts: list[str]
) -> None:
    command = [argument.format(protected) for argument in arguments]
    message = fails(capsys, *command, "--store", protected / "store")
    says(message, *(part.format(protected) for part in parts))
    assert "choose another" in message and message.count("\n") == 1
    assert not re.search(r"/\.\w", message)  # the name of a temporary file means nothing to its reader


def test_a_store_that_may_be_read_alone_answers_questions(
    bench: Bench, protected: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["front"], ["select", "--balanced"]):
        assert main([*arguments, "--store", str(protected / "store")]) == 0
    says(capsys.readouterr().out, "trial-0002", "models:/toy/")


def test_a_database_of_somebody_else_is_one_message(
    bench: Bench, protected: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    user = os.geteuid()
    os.seteuid(os.getuid())
    (protected / "store" / "mlflow.db").chmod(0o000)
    os.seteuid(user)
    says(fails(capsys, "front", "--store", protected / "store"), "mlflow.db", "readable", "permissions")


def cpu_seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(
    "case",
    [
        "missing study",
        pytest.param("wrong checksum", marks=pytest.mark.slow),
        pytest.param("unmet budget", marks=pytest.mark.slow),
    ],
)
def test_the_whole_command_is_refused_in_time(bench: Bench, case: str) -> None:
    study = bench.study(teachers=[{"source": "teacher", "sha256": "0" * 64}])
    arguments = {
        "missing study": ["search", "nowhere.yaml"],
        "wrong checksum": ["search", study, "--store", "new"],
        "unmet budget": ["select", "toy", "--max-latency-ms", "0.001", "--store", bench.store.root],
    }[case]
    before = cpu_seconds_of_children()
    process = understudy(*arguments)
    out, error = process.communicate(timeout=60)
    assert cpu_seconds_of_children() - before < MOST_PROCESS_SECONDS  # imports included; a busy machine does not count
    assert (process.returncode, out) == (2, "")
    assert error.startswith("understudy: ")
    assert "Traceback" not in error


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from search.cli.parser import build_parser; build_parser().format_help(); "
        "print(sorted({'torch', 'ray', 'mlflow', 'optuna', 'transformers', 'pandas', 'rich'} & set(sys.modules)))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert finished.stdout == "[]\n", finished.stderr


_FIRST_MESSAGE = """
import os, sys
from search.cli.main import main

class Stderr:
    def write(self, text):
        print(text, sorted({"torch", "ray", "mlflow", "optuna"} & set(sys.modules)), flush=True)
        os._exit(0)

sys.stderr = Stderr()
main(sys.argv[1:])
"""


def test_what_is_left_of_the_time_budget_is_told_before_anything_slow_is_imported(bench: Bench) -> None:
    study = bench.study(search={"rungs": [200], "time_budget": "4m"})
    StudyState.of(Store(bench.folder / "new"), "toy-study").write(CLOCK, 30.0)
    command = [sys.executable, "-c", _FIRST_MESSAGE, "search", str(study), "--store", "new"]
    told = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    says(told.stdout, "time budget 4:00, for all commands of toy-study: 0:30 spent, 3:30 left")
    assert told.stdout.endswith(" []\n"), told.stdout + told.stderr


def test_a_search_whose_time_is_spent_ends_at_once(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    study = bench.study(search={"rungs": [200], "time_budget": "4m"})
    StudyState.of(Store(bench.folder / "new"), "toy-study").write(CLOCK, 300.0)
    says(fails(capsys, "search", study, "--store", "new"), "5:00 of 4:00 are spent", "--time-budget 10m")


@pytest.mark.slow
def test_a_search_leaves_a_front_that_the_other_commands_read(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    study = bench.study(
        search={"rungs": [2_000, 4_000], "n_trials": 3, "time_budget": "200s"},
        graduation={"n_tokens": 6_000},
        profile={"runtime": "torch", "n_tokens": 8},
        space={"n_layers": {"low": 0, "high": 2}, "learning_rate": {"low": 1e-4, "high": 1e-3, "log": True}},
    )
    process = understudy("search", study, "--store", "new", "--name", "renamed", "--seed", "7")
    out, error = process.communicate(timeout=240)
    assert process.returncode == 0, error
    says(error, "3 complete")
    says(out, "renamed", "static-table")
    assert main(["front", "renamed", "--json", "--store", "new"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["students"]
    assert {"teacher", "static-table"} <= {entry["name"] for entry in document["references"]}
    assert main(["embed", "renamed@most-faithful", "text.txt", "--store", "new"]) == 0
    assert np.load("text.txt.npy").shape == (200, 16)


@pytest.fixture
def free_port() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    yield port


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "send"),
    [(signal.SIGINT, os.killpg), (signal.SIGTERM, os.kill), (signal.SIGHUP, os.killpg), (signal.SIGKILL, os.kill)],
    ids=["ctrl-c", "sigterm", "hang-up", "sigkill"],
)
def test_the_ui_serves_the_study_on_loopback_until_a_signal_ends_all_its_processes(
    bench: Bench,
    free_port: int,
    sent: signal.Signals,
    send: Callable[[int, int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("UNDERSTUDY_TEST_MARK", f"ui-{free_port}")
    process = understudy("ui", "--store", bench.store.root, "--port", free_port)
    try:
        address = f"http://127.0.0.1:{free_port}"
        wait_until_answered(f"{address}/health", process)
        query = urllib.request.Request(
            f"{address}/api/2.0/mlflow/experiments/get-by-name?experiment_name=toy",
            headers={"Accept": "application/json"},
        )
        with urllib.request.urlopen(query) as response:
            assert json.load(response)["experiment"]["name"] == "toy"
        assert len(processes_marked(f"ui-{free_port}")) > 1
        send(process.pid, sent)
        out, error = process.communicate(timeout=60)  # ends once no process holds its stderr
        assert out == ""
        if sent is signal.SIGKILL:
            assert process.returncode == -signal.SIGKILL
        else:
            assert process.returncode == 130
            says(error, f"{address}", f"{address}/#/experiments/", "workflowType=machine_learning", "interrupted")
        assert "Traceback" not in error
        assert processes_marked(f"ui-{free_port}") == []
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", free_port), timeout=1).close()
    finally:
        for pid in processes_marked(f"ui-{free_port}"):
            os.kill(pid, signal.SIGKILL)
        process.communicate()


def processes_marked(mark: str) -> list[int]:
    """Process ids of running processes with this value of UNDERSTUDY_TEST_MARK, which children inherit."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            marked = f"UNDERSTUDY_TEST_MARK={mark}".encode() in (folder / "environ").read_bytes().split(b"\0")
            if marked and (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(int(folder.name))
        except OSError:  # it has ended, or is another user's
            continue
    return found


def wait_until_answered(address: str, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 300
    while True:
        try:
            urllib.request.urlopen(address, timeout=2).close()
            return
        except OSError:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.2)


@pytest.mark.slow
def test_a_registered_student_is_served_by_its_name(bench: Bench) -> None:
    process = understudy("serve", "toy@fastest", "--store", bench.store.root, "--port", 0)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        with urllib.request.urlopen(f"{address}/v1/models") as response:
            assert [model["id"] for model in json.load(response)["data"]] == ["toy@fastest"]
        process.terminate()
        _, error = process.communicate(timeout=30)
        assert process.returncode == 0
        assert error == f"toy@fastest is served at {address} (Ctrl-C ends it)\n"
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_entries_are_complete(made: Bench) -> None:
    from search.tracking.registry import load_front

    document = load_front(Store(made.store.root), "toy")
    assert all(isinstance(entry, MeasuredStudent) and entry.uri for entry in document.students)


def test_a_renamed_key_is_one_line_and_no_mistake(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    path = bench.study(search={"rungs": [200, 400], "n_trials": 4, "patience": 2.5})
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # as outside of tests, where a warning is no error
        assert main(["validate", str(path)]) == 0
    told = capsys.readouterr().err
    assert told.startswith("understudy: search.patience is called prune_ratio now; the old name is still read\n")
    assert "FutureWarning" not in told
