# SPDX-License-Identifier: Apache-2.0
"""Corpora: every source read, every sentence once, split by hash alone; bad text explained with its place."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, normalizers, processors

from spaces.study.spec import CorpusSpec, SourceSpec
from tests.trainers.model_folders import sentences, tokenizer_json
from trainers.text.corpus import Corpus, corpus_key, prepare_corpus
from trainers.text.sources import dataset_texts, read_texts
from trainers.text.tokenised_text import TokenisedText, tokenise

TOKENIZER = tokenizer_json()
TEXTS = sentences(1200, seed=0)


def corpus_of(
    *sources: SourceSpec | Path, cache_dir: Path, max_tokens: int = 12, tokenizer: str = TOKENIZER, **spec: Any
) -> Corpus:
    made = tuple(source if isinstance(source, SourceSpec) else SourceSpec(source=str(source)) for source in sources)
    settings = {"sources": made, "min_characters": 5, "min_words": 2, "held_out": 40} | spec
    return prepare_corpus(CorpusSpec(**settings), tokenizer_json=tokenizer, max_tokens=max_tokens, cache_dir=cache_dir)


def write_lines(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def token_ids(text: TokenisedText, index: int) -> list[int]:
    return [int(token) for token in text.tokens[text.offsets[index] : text.offsets[index + 1]]]


def test_a_corpus_is_the_brute_force_of_its_definition(tmp_path: Path) -> None:
    corpus = corpus_of(write_lines(tmp_path / "a.txt", TEXTS + TEXTS[:100]), cache_dir=tmp_path / "cache")
    by_hash = sorted(TEXTS, key=digest)
    in_share = [text for text in by_hash if int.from_bytes(digest(text)[:8], "big") < 0.05 * 2**64]
    assert len(in_share) >= 40
    assert list(corpus.held_out.texts) == in_share[:40]
    assert list(corpus.train.texts) == by_hash[len(in_share) :]
    assert corpus.counts["read"] == 1300 and corpus.counts["repeated"] == 100 and corpus.counts["distinct"] == 1200
    assert (corpus.counts["train"], corpus.counts["held_out"]) == (len(corpus.train), 40)


def test_token_ids_are_the_tokenizers_cut_to_the_limit(tmp_path: Path) -> None:
    corpus = corpus_of(write_lines(tmp_path / "a.txt", TEXTS), cache_dir=tmp_path / "cache", max_tokens=10)
    tokenizer = Tokenizer.from_str(TOKENIZER)
    tokenizer.no_padding()
    tokenizer.enable_truncation(10)
    for text in (corpus.train, corpus.held_out):
        assert text.tokens.dtype == np.int32 and text.offsets.dtype == np.int64 and text.offsets[0] == 0
        assert [token_ids(text, i) for i in range(len(text))] == [tokenizer.encode(line).ids for line in text.texts]
        assert text.lengths.max() == 10 and text.n_tokens == len(text.tokens)


def test_the_split_does_not_depend_on_order_other_text_or_tokenizer(tmp_path: Path) -> None:
    whole = corpus_of(write_lines(tmp_path / "a.txt", TEXTS), cache_dir=tmp_path / "cache")
    turned = corpus_of(write_lines(tmp_path / "b.txt", TEXTS[::-1]), cache_dir=tmp_path / "cache")
    other = tokenizer_json(extra=("sea",))
    retold = corpus_of(tmp_path / "a.txt", cache_dir=tmp_path / "cache", tokenizer=other)
    for again in (turned, retold):
        assert list(again.train.texts) == list(whole.train.texts)
        assert list(again.held_out.texts) == list(whole.held_out.texts)
    more = corpus_of(write_lines(tmp_path / "c.txt", TEXTS + sentences(900, seed=9)), cache_dir=tmp_path / "cache")
    assert not set(more.train.texts) & set(whole.held_out.texts)


def test_a_small_corpus_holds_a_larger_share_out(tmp_path: Path) -> None:
    corpus = corpus_of(write_lines(tmp_path / "a.txt", TEXTS[:150]), cache_dir=tmp_path / "cache", held_out=40)
    assert len(corpus.held_out) == 40 and len(corpus.train) > 40
    assert not set(corpus.train.texts) & set(corpus.held_out.texts)


def test_a_limit_counts_the_held_out_and_takes_a_prefix(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.txt", TEXTS)
    whole, limited = (corpus_of(path, cache_dir=tmp_path / "cache", limit=limit) for limit in (None, 300))
    assert len(limited.train) + len(limited.held_out) == 300
    assert list(limited.train.texts) == whole.train.texts[:260]


def test_filters_are_inclusive_and_white_space_is_one_space(tmp_path: Path) -> None:
    lines = ["x" * 9 + " y", "x" * 10 + " y", "x" * 18 + " y", "x" * 19 + " y", "oneword" * 2, "  a\tb   c  d e "]
    padding = [f"word {number:05d}" for number in range(400)]
    corpus = corpus_of(
        write_lines(tmp_path / "a.txt", lines + padding), cache_dir=tmp_path / "c", min_characters=9, max_characters=20
    )
    kept = {*corpus.train.texts, *corpus.held_out.texts} - set(padding)
    dropped_share = corpus.counts["distinct"] - len(corpus.train) - len(corpus.held_out)
    assert kept <= {lines[0], lines[1], lines[2], "a b c d e"} and len(kept) >= 4 - dropped_share
    assert corpus.counts | {"too_short": 0, "too_long": 1, "too_few_words": 1} == corpus.counts


def test_every_kind_of_file_gives_the_same_corpus(tmp_path: Path) -> None:
    lines = [*TEXTS, 'A "quoted, text" with commas,\tand a tab .']
    write_lines(tmp_path / "plain.txt", lines)
    (tmp_path / "packed.txt.gz").write_bytes(gzip.compress(("\ufeff" + "\r\n".join(lines)).encode()))
    for suffix, dialect in ((".csv", "excel"), (".tsv", "excel-tab")):
        with (tmp_path / f"table{suffix}").open("w", newline="") as file:
            csv.writer(file, dialect).writerows([("id", "text"), *enumerate(lines)])
    rows = [json.dumps({"text": line, "other": 1}) for line in lines]
    write_lines(tmp_path / "rows.jsonl", [*rows, json.dumps({"text": None}), ""])
    parquet.write_table(pa.table({"n": range(len(lines) + 1), "text": [*lines, None]}), tmp_path / "t.parquet")
    files = ["plain.txt", "packed.txt.gz", "table.csv", "table.tsv", "rows.jsonl", "t.parquet"]
    corpora = [
        corpus_of(
            SourceSpec(source=str(tmp_path / name), column=None if "txt" in name else "text"),
            cache_dir=tmp_path / "cache",
        )
        for name in files
    ]
    for corpus in corpora[1:]:
        assert list(corpus.train.texts) == list(corpora[0].train.texts)
        assert list(corpus.held_out.texts) == list(corpora[0].held_out.texts)
    together = corpus_of(
        *(SourceSpec(source=str(tmp_path / name), column="text") for name in files[2:]),
        cache_dir=tmp_path / "cache",
    )
    assert together.counts["distinct"] == len(lines) and together.counts["read"] == 4 * len(lines)


def test_columns_of_a_hub_data_set_are_read() -> None:
    import datasets

    dataset = datasets.Dataset.from_dict({"label": [1, 2, 3], "text": ["one two", None, "three"]})
    assert list(dataset_texts(dataset, "text", origin="hub:x")) == ["one two", "three"]
    with pytest.raises(ValueError, match=r"hub:x: there is no column 'body'; .*'label', 'text'"):
        list(dataset_texts(dataset, "body", origin="hub:x"))
    with pytest.raises(ValueError, match="hub:x, row 0: column 'label' must hold text, got 1"):
        list(dataset_texts(dataset, "label", origin="hub:x"))


def test_a_corpus_is_made_once_and_again_when_anything_changes(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.txt", TEXTS)
    spec = CorpusSpec(sources=(SourceSpec(source=str(path)),), held_out=40, min_words=2)
    seen: list[tuple[int, int]] = []

    def prepare(**changes: Any) -> Corpus:
        settings: dict[str, Any] = {"tokenizer_json": TOKENIZER, "max_tokens": 12} | changes
        return prepare_corpus(
            spec, **settings, cache_dir=tmp_path / "cache", progress=lambda done, total: seen.append((done, total))
        )

    first = prepare()
    n = len(first.train) + len(first.held_out)
    assert seen[-1] == (n, n) and seen == sorted(seen)
    inode = first.path.stat().st_ino
    seen.clear()
    assert prepare().path.stat().st_ino == inode and not seen
    keys = {first.key, prepare(max_tokens=11).key, prepare(tokenizer_json=tokenizer_json(extra=("sea",))).key}
    keys.add(
        corpus_key(CorpusSpec(sources=spec.sources, held_out=41, min_words=2), tokenizer_json=TOKENIZER, max_tokens=12)
    )
    keys.add(corpus_key(CorpusSpec(sources=spec.sources, held_out=40), tokenizer_json=TOKENIZER, max_tokens=12))
    write_lines(path, TEXTS[:-1])
    keys.add(prepare().key)
    assert len(keys) == 6
    assert sorted(file.suffix for file in (tmp_path / "cache").iterdir()) == [".arrow"] * 4  # nothing else is left


def test_a_moved_file_is_the_same_corpus(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.txt", TEXTS)
    first = corpus_of(path, cache_dir=tmp_path / "cache")
    path.rename(tmp_path / "b.txt")
    os.utime(tmp_path / "b.txt", (0, 0))
    assert corpus_of(tmp_path / "b.txt", cache_dir=tmp_path / "cache").key == first.key


def test_token_ids_stay_in_the_file_and_texts_are_decoded_when_read(tmp_path: Path) -> None:
    corpus = corpus_of(write_lines(tmp_path / "a.txt", TEXTS), cache_dir=tmp_path / "cache")
    before = pa.total_allocated_bytes()
    train = corpus_of(tmp_path / "a.txt", cache_dir=tmp_path / "cache").train
    assert pa.total_allocated_bytes() - before < train.tokens.nbytes / 4
    assert not train.tokens.flags.owndata and not train.tokens.flags.writeable
    assert train.texts[0] == corpus.train.texts[0] and train.texts[-1] == list(train.texts)[-1]
    with pytest.raises(IndexError):
        train.texts[len(train)]


@given(n=st.integers(0, 60))
def test_a_prefix_of_tokenised_text_is_the_text_of_a_prefix(n: int) -> None:
    text = tokenise(TEXTS[:50], tokenizer_json=TOKENIZER, max_tokens=12)
    part = text.take(n)
    assert list(part.texts) == TEXTS[: min(n, 50)]
    assert [token_ids(part, i) for i in range(len(part))] == [token_ids(text, i) for i in range(min(n, 50))]
    assert part.n_tokens == len(part.tokens) and part.key == text.key


def test_the_key_of_tokenised_text_names_its_sentences() -> None:
    settings: dict[str, Any] = {"tokenizer_json": TOKENIZER, "max_tokens": 12}
    assert tokenise(TEXTS[:5], **settings).key == tokenise(TEXTS[:5], **settings).key
    assert tokenise(TEXTS[:5], **settings).key != tokenise(TEXTS[4::-1], **settings).key
    assert len(tokenise([], **settings)) == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "a.txt is empty; give a file with one sentence a line"),
        ("a.txt", b"\n\n \n", "no sentences are left after filtering: of 3 texts 3 have fewer than 5 characters"),
        (
            "a.txt",
            "A good line .\nA na\u00efve line .\n".encode("latin-1"),
            r"a.txt, line 2: text must be UTF-8, byte 0xef .*iconv",
        ),
        ("a.txt", "A line of text .\n".encode("utf-16-le"), "a.txt, line 1: .*NUL bytes.*iconv -f UTF-16"),
        ("a.txt", b"A small house .\nThe old river .\n", "held_out must be less than about half .* 40 of 2 distinct"),
        ("a.txt.gz", b"not gzip", "after line 0: not a whole gzip file"),
        ("a.txt.gz", gzip.compress(b"A line of text .\n" * 5000)[:-9], "not a whole gzip file"),
        (
            "a.csv",
            b"id,body\n1,text\n",
            r"a.csv: there is no column 'text'; set column to one that exists: 'id', 'body'",
        ),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', "a.jsonl, line 2: not JSON"),
        ("a.jsonl", b'["text"]\n', "a.jsonl, line 1: must be a JSON object, got list"),
        ("a.jsonl", b'{"text": 3}\n', "a.jsonl, line 1: column 'text' must hold text, got 3"),
        ("a.jsonl", b'{"body": "x"}\n', "a.jsonl, line 1: there is no column 'text'; .*'body'"),
        ("a.parquet", b"PAR1", "not a Parquet file"),
    ],
)
def test_bad_text_is_explained_with_its_place(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    source = SourceSpec(source=str(tmp_path / name), column=None if "txt" in name else "text")
    with pytest.raises(ValueError, match=message):
        corpus_of(source, cache_dir=tmp_path / "cache")
    cache = tmp_path / "cache"
    assert not cache.exists() or not list(cache.iterdir())


@pytest.mark.parametrize(
    ("column", "message"), [("n", "must hold text, got int64"), ("x", "no column 'x'; .*'n', 'text'")]
)
def test_a_parquet_column_that_is_no_text_is_refused(column: str, message: str, tmp_path: Path) -> None:
    parquet.write_table(pa.table({"n": [1], "text": ["x"]}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=message):
        list(read_texts(SourceSpec(source=str(tmp_path / "t.parquet"), column=column)))


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no text file .*absent.txt; give a path that exists"):
        corpus_of(tmp_path / "absent.txt", cache_dir=tmp_path / "cache")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(ValueError, match=r"is a file, and .* is not one"):
        corpus_of(tmp_path / "folder.txt", cache_dir=tmp_path / "cache")


def test_a_tokenizer_that_finds_no_tokens_is_refused(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(TOKENIZER)
    tokenizer.normalizer = normalizers.Replace(Regex("."), "")
    tokenizer.post_processor = processors.Sequence([])
    path = write_lines(tmp_path / "a.txt", TEXTS)
    with pytest.raises(ValueError, match=r"a sentence must have tokens.*special tokens"):
        corpus_of(path, cache_dir=tmp_path / "cache", tokenizer=tokenizer.to_str())


def test_a_damaged_corpus_file_says_so(tmp_path: Path) -> None:
    corpus = corpus_of(write_lines(tmp_path / "a.txt", TEXTS), cache_dir=tmp_path / "cache")
    corpus.path.write_bytes(corpus.path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"\.arrow is damaged: .*; remove it"):
        corpus_of(tmp_path / "a.txt", cache_dir=tmp_path / "cache")


def as_written_before_counts_by_source(corpus: Corpus) -> None:
    """Rewrite the file with the metadata that earlier versions wrote."""
    with pa.ipc.open_file(corpus.path) as reader:
        batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        metadata = {name: value for name, value in reader.schema.metadata.items() if name != b"sources"}
        schema = reader.schema.with_metadata(metadata)
    earlier = corpus.path.with_suffix(".earlier")
    with pa.ipc.new_file(earlier, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    earlier.rename(corpus.path)


def test_a_corpus_of_an_earlier_version_keeps_its_key_where_its_text_was_read_right(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.txt", [*TEXTS, "short"])
    first = corpus_of(path, cache_dir=tmp_path / "cache")
    as_written_before_counts_by_source(first)
    again = corpus_of(path, cache_dir=tmp_path / "cache")
    assert again.key == first.key and again.sources[0].too_few_words + again.sources[0].too_short == 1
    assert list(again.train.texts) == list(first.train.texts)
    assert [token_ids(again.train, i) for i in range(99)] == [token_ids(first.train, i) for i in range(99)]
    inode = again.path.stat().st_ino
    assert corpus_of(path, cache_dir=tmp_path / "cache").path.stat().st_ino == inode


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("a.txt", [f"昨日は友達と映画を{number}回も見ました。" for number in range(50)]),
        ("a.tsv", ["text\tn", '"An open cell\t1', '"Yes," she said\t2']),
        ("a.csv", ["text,n", "one, two, three,1"]),
    ],
)
def test_a_corpus_whose_text_an_earlier_version_read_wrongly_has_another_key(
    name: str, rows: list[str], tmp_path: Path
) -> None:
    delimiter = {".txt": "", ".tsv": "\t0", ".csv": ",0"}[name[1:]]
    source = SourceSpec(
        source=str(write_lines(tmp_path / name, rows + [text + delimiter for text in TEXTS])),
        column=None if "txt" in name else "text",
    )
    corpus = corpus_of(source, cache_dir=tmp_path / "cache", max_characters=60)
    spec = CorpusSpec(sources=(source,), min_characters=5, min_words=2, max_characters=60, held_out=40)
    earlier = corpus_key(spec, tokenizer_json=TOKENIZER, max_tokens=12)
    assert corpus.key != earlier
    inode = corpus.path.stat().st_ino
    assert corpus_of(source, cache_dir=tmp_path / "cache", max_characters=60).path.stat().st_ino == inode
