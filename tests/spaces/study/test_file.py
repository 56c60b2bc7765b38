# SPDX-License-Identifier: Apache-2.0
"""Studies that are wrong: every mistake is told at its line, with the remedy, and all of them together."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spaces.study import StudyError, load_study, parse_study

VALID = """\
name: small
teachers:
  - hub:org/model
corpus:
  sources: [installed-docs]
search:
  n_trials: 3
  rungs: [100, 200]
graduation:
  n_tokens: 1000
space:
  n_layers: {low: 0, high: 2}
  width: [48, 96]
initial_points:
  - {n_layers: 2, width: 48}
"""


def problem_of(text: str, *, folder: Path | None = None) -> tuple[int | None, str]:
    """Line and message of the one problem of a text."""
    with pytest.raises(StudyError) as caught:
        parse_study(text, folder=folder)
    assert len(caught.value.problems) == 1, str(caught.value)
    return caught.value.problems[0].line, str(caught.value.problems[0])


def test_the_text_that_the_mistakes_are_put_into_is_valid() -> None:
    assert parse_study(VALID).name == "small"


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        # keys and types
        ("name: small", "nam: small", 1, "did you mean name"),
        ("name: small", "name: ../small", 1, "begin with a letter or digit"),
        ("name: small", "name: [small]", 1, "name must be text"),
        ("n_trials: 3", "n_trials: -3", 7, "at least 1, or null, got -3"),
        ("n_trials: 3", "n_trials: many", 7, "must be an integer"),
        ("n_trials: 3", "n_trials: 3\n  device: cuda", 8, "device must be cpu, got 'cuda'; others are not supported"),
        ("n_trials: 3", "n_trials: 3.0", 7, "write 3"),
        ("n_trials: 3", "n_trails: 3", 7, "did you mean n_trials"),
        ("n_trials: 3", "n_trials: 3\n  time_budget: -10m", 8, "a positive duration"),
        ("n_trials: 3", "n_trials: 3\n  time_budget: 10", 8, "90s, 10m or 2h"),
        ("n_trials: 3", "n_trials: 3\n  seed: yes", 8, "must be an integer"),
        ("n_trials: 3", "n_trials: 3\n  prune_ratio: 0", 8, "greater than 0"),
        ("n_trials: 3", "n_trials: 3\n  sampler: best", 8, "front, tpe, gp, random or MODULE:CLASS"),
        ("n_trials: 3", "n_trials: 3\n  pruner: os.path", 8, "front, none or MODULE:CLASS"),
        ("n_trials: 3", "n_trials: 3\n  n_workers: 0", 8, "at least 1"),
        ("n_trials: 3\n", "", 7, "a search must end"),
        ("rungs: [100, 200]", "rungs: [200, 100]", 8, "rungs must increase"),
        ("rungs: [100, 200]", "rungs: [100, 100]", 8, "rungs must increase"),
        ("rungs: [100, 200]", "rungs: []", 8, "there must be one"),
        ("rungs: [100, 200]", "rungs: 100", 8, "must be a list"),
        ("rungs: [100, 200]", "rungs: [0, 100]", 8, "positive integers"),
        ("  n_tokens: 1000", "  n_workers: 1", 9, "graduation must end"),
        ("n_tokens: 1000", "n_tokens: 1000\n  share: 1.5", 11, "at most 1"),
        ("n_tokens: 1000", "n_tokens: 1000\n  n_workers: 3\n  workers_per_student: 2", 12, "set n_workers to 4"),
        ("graduation:\n", "graduation: 3\n#", 9, "must be a mapping"),
        ("graduation:", "profile: {runtime: torhc}\ngraduation:", 9, "did you mean torch"),
        ("graduation:", "profile: {batch_size: 0}\ngraduation:", 9, "at least 1, got 0"),
        # teachers and text
        ("  - hub:org/model", "  []", 3, "teachers must not be empty"),
        ("  - hub:org/model", "  - hub:org/model\n  - hub:org/model", 4, "twice"),
        ("  - hub:org/model", "  - {source: hub:org/model, weight: 0}", 3, "greater than 0"),
        ("  - hub:org/model", "  - {source: hub:org/model, sha256: abc}", 3, "64 lower-case hexadecimal"),
        ("  - hub:org/model", "  - {weight: 1}", 3, "must have the key source"),
        ("  - hub:org/model", "  - hub:../model", 3, "hub:ORGANISATION/NAME"),
        ("  - hub:org/model", "  - 'package:'", 3, "package:NAME"),
        ("  - hub:org/model", "  - no-such-folder", 3, "folder must exist"),
        ("  - hub:org/model", "  - \"a\\0b\"", 3, "must be a path that can be opened"),
        ("sources: [installed-docs]", "sources: []", 5, "sources must not be empty"),
        ("sources: [installed-docs]", "sources: [missing.txt]", 5, "text file must exist"),
        ("sources: [installed-docs]", "sources: [hub:org/data]", 5, "a table needs a column"),
        ("sources: [installed-docs]", "sources: [{source: installed-docs, column: x}]", 5, "no columns"),
        ("sources: [installed-docs]", "sources: [{source: installed-docs, split: x}]", 5, "only hub data sets"),
        ("sources: [installed-docs]", "sources: [installed-docs, installed-docs]", 5, "distinct"),
        ("[installed-docs]", "[installed-docs]\n  min_characters: 300", 6, "min_characters must not exceed"),
        ("[installed-docs]", "[installed-docs]\n  held_out: 100\n  limit: 100", 7, "limit must exceed held_out"),
        ("[installed-docs]", "[installed-docs]\n  max_tokens: 2", 6, "at least 4"),
        ("sources: [installed-docs]", "sources: ['']", 5, "must not be empty"),
        ("sources: [installed-docs]", "sources: [{source: 'hub:', column: x}]", 5, "needs a name after the colon"),
        ("  - hub:org/model", "  - ''", 3, "must not be empty"),
        ("  - hub:org/model", "  - ~no-such-user/x", 3, "a path that can be opened"),
        ("  - hub:org/model", "  - true", 3, "must be text"),
        # the space
        ("n_layers: {low", "n_layer: {low", 12, "did you mean n_layers"),
        ("{low: 0, high: 2}", "{low: 2, high: 0}", 12, "low must not exceed high"),
        ("{low: 0, high: 2}", "{low: 0}", 12, "must have low and high"),
        ("{low: 0, high: 2}", "{low: 0, high: 2.5}", 12, "must be an integer"),
        ("{low: 0, high: 2}", "{low: -1, high: 2}", 12, "at least 0"),
        ("{low: 0, high: 2}", "{low: 0, hihg: 2}", 12, "did you mean high"),
        ("{low: 0, high: 2}", "{low: 0, high: 2, log: true}", 12, "low >= 1"),
        ("{low: 0, high: 2}", "{low: 0, high: 2, log: 1}", 12, "space.n_layers.log must be true or false"),
        ("{low: 0, high: 2}", "{low: 0, high: 2, step: 3}", 12, "step must divide"),
        ("{low: 0, high: 2}", "{low: 0, high: 2, options: [1]}", 12, "a range, a choice or a value"),
        ("{low: 0, high: 2}", "{}", 12, "write low and high, or options, or value"),
        ("{low: 0, high: 2}", "two", 12, "must be an integer"),
        ("{low: 0, high: 2}", "{low: 0, high: 2, step: 1.5}", 12, "space.n_layers.step must be an integer"),
        ("{low: 0, high: 2}", "{options: 3}", 12, "write options: [first, second]"),
        ("{low: 0, high: 2}", "{value: -1}", 12, "at least 0"),
        ("  n_layers: {low: 0, high: 2}\n", "", 14, "must be a dimension of the space"),
        ("[48, 96]", "[48, 96]\n  sparsity: {low: 0, high: 0.5, step: 0.1}", 14, "list the options"),
        ("[48, 96]", "[48, 96]\n  embedding_dim: {low: null, high: 8}", 14, "list null among options"),
        ("[48, 96]", "[48, 96]\n  units: {options: [8], when: {width: {low: 97}}}", 14, "width is never so"),
        ("[48, 96]", "[48, 96]\n  units: {options: [8], when: {width: {value: 48, when: 1}}}", 14, "no conditions"),
        ("[48, 96]", "[]", 13, "at least one option"),
        ("[48, 96]", "[48, 96, 48]", 13, "distinct"),
        ("[48, 96]", "[48, 96]\n  pooling: {low: 0, high: 1}", 14, "list the options"),
        ("[48, 96]", "[48, 96]\n  static_path: 1", 14, "true or false"),
        ("[48, 96]", "[48, 96]\n  units: {options: [8], when: {depth: 3}}", 14, "must name a dimension of the space"),
        ("[48, 96]", "[48, 96]\n  units: {options: [8], when: {width: 99}}", 14, "width is never so"),
        ("[48, 96]", "[48, 96]\n  units: {options: [8], when: {units: 8}}", 14, "in a circle"),
        ("[48, 96]", "[48, 96]\n  n_experts: [2]", 14, "must be able to matter"),
        # impossible points
        ("[48, 96]", "[48, 96]\n  n_heads: [5]", 14, "n_heads must divide the width"),
        ("[48, 96]", "[48, 96]\n  n_heads: [3]\n  head_width: [32]", 15, "must not exceed the width"),
        ("[48, 96]", "[48, 96]\n  embedding_dim: [null, 48]", 14, "narrower than the width"),
        ("[48, 96]", "[48, 96, 40]\n  sparsity: [0, 0.5]", 14, "width must be divisible by 16"),
        ("[48, 96]", "[48, 96]\n  sparsity: {low: 0, high: 0.5}\n  units: [20]", 15, "units must be divisible by 16"),
        ("[48, 96]", "[48, 96]\n  static_path: false", 14, "depth 0 is its static path"),
        ("[48, 96]", "[48, 96]\n  static_path: [false]", 14, "depth 0 is its static path"),
        ("[48, 96]", "[48, 96]\n  feed_forward: switch", 14, "needs n_experts"),
        ("[48, 96]", "[48, 96]\n  cosine: 0", 14, "at least one loss weight"),
        ("[48, 96]", "[48, 96]\n  hidden: 1", 14, "one width only"),
        # initial points
        ("{n_layers: 2, width: 48}", "{n_layers: 3}", 15, "must lie in its domain, 0 to 2, got 3"),
        ("{n_layers: 2, width: 48}", "{widht: 48}", 15, "did you mean width"),
        ("{n_layers: 2, width: 48}", "{n_layers: 0, width: 48}", 15, "has no effect in this point"),
        ("{n_layers: 2, width: 48}", "{n_layers: [2]}", 15, "must be one value"),
        ("  - {n_layers: 2, width: 48}", "  {n_layers: 2}", 15, "must be a list"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_at_its_line_with_its_remedy(
    old: str, new: str, line: int, message: str, tmp_path: Path
) -> None:
    assert VALID.count(old) == 1
    found_line, found = problem_of(VALID.replace(old, new), folder=tmp_path)
    assert message in found
    assert found_line == line
    assert "; " in found, "the remedy is missing"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", None, "must not be empty"),
        ("  \n\n", None, "must not be empty"),
        ("# only a comment\n", None, "must not be empty"),
        ("- a list\n", 1, "a mapping of keys to values"),
        ("just words\n", 1, "a mapping of keys to values"),
        (VALID + "name: again\n", 16, "first on line 1"),
        (VALID.replace("  n_trials", "\tn_trials"), 7, "replace the tab by spaces"),
        (VALID.replace("[100, 200]", "[100, 200"), 9, "valid YAML"),
        (VALID.replace("small", "&a small"), 1, "anchors and aliases"),
        (VALID.replace("small", "*a"), 1, "anchors and aliases"),
        (VALID.replace("small", "!!python/name:os.system x"), 1, "tags are not allowed"),
        (VALID + "---\nname: two\n", 17, "one document"),
        (VALID + "\0", 16, "control characters"),
        ("name: " + "[" * 5_000 + "\n", 1, "nest at most"),
        ("name: " + "x" * 300_000, None, "at most 60000 characters"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_text_that_is_no_study_is_refused(text: str, line: int | None, message: str) -> None:
    found_line, found = problem_of(text)
    assert message in found
    assert found_line == line


def test_all_mistakes_are_told_together_in_the_order_of_the_file() -> None:
    text = (
        VALID.replace("name: small", "name: ''")
        .replace("hub:org/model", "hub:org/model/more")
        .replace("[installed-docs]", "[gone.txt]\n  min_words: 0")
        .replace("n_trials: 3", "n_trials: -1")
        .replace("[100, 200]", "[200, 100]")
        .replace("{low: 0, high: 2}", "{low: 2, high: 0}")
        .replace("[48, 96]", "[48, maybe]\n  heads: 3")
    )
    with pytest.raises(StudyError) as caught:
        parse_study(text, origin="broken.yaml")
    lines = [problem.line for problem in caught.value.problems]
    assert lines == [1, 3, 5, 6, 8, 9, 13, 14, 15]
    assert str(caught.value).startswith("broken.yaml: 9 problems\n  line 1: ")
    assert len(str(caught.value).splitlines()) == 10


def test_missing_parts_are_all_named() -> None:
    with pytest.raises(StudyError) as caught:
        parse_study("name: small\n")
    message = str(caught.value)
    for key in ("teachers", "corpus", "search", "space"):
        assert f"must have the key {key}" in message


def test_rules_between_fields_are_tried_beside_a_field_that_failed() -> None:
    text = VALID.replace("[installed-docs]", "[gone.txt]\n  held_out: 100\n  limit: 50\n  min_characters: 500")
    with pytest.raises(StudyError) as caught:
        parse_study(text)
    assert len(caught.value.problems) == 3


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="quickstart"):
        load_study(tmp_path / "missing.yaml")
    with pytest.raises(FileNotFoundError, match="preset"):
        load_study("quickstrat")
    with pytest.raises(StudyError, match="a folder; name a YAML file"):
        load_study(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("name: café".encode("latin-1"))
    with pytest.raises(StudyError, match="must be UTF-8, got byte 0xe9 at 9; save it as UTF-8"):
        load_study(latin)
    utf16 = tmp_path / "utf16.yaml"
    utf16.write_bytes(VALID.encode("utf-16"))
    with pytest.raises(StudyError, match="must be UTF-8"):
        load_study(utf16)
    empty = tmp_path / "empty.yaml"
    empty.touch()
    with pytest.raises(StudyError, match="must not be empty"):
        load_study(empty)
    with pytest.raises(StudyError, match="a device or pipe"):
        load_study("/dev/zero")
    huge = tmp_path / "huge.yaml"
    huge.write_bytes(b"x" * 2_000_000)
    with pytest.raises(StudyError, match="is this the corpus"):
        load_study(huge)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + VALID.encode())
    assert load_study(file).name == "small"


def test_empty_text_files_and_folders_in_their_place_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "notes.doc").write_text("text", encoding="utf-8")
    for name, message in (("empty.txt", "0 bytes"), ("folder.txt", "a folder"), ("notes.doc", "must end in .txt")):
        assert message in problem_of(VALID.replace("installed-docs", name), folder=tmp_path)[1]


def test_a_hostile_file_is_answered_within_seconds() -> None:
    many = ", ".join(str(number) for number in range(1, 5_000))
    wide = "{low: 1, high: 65536}"
    text = VALID.replace("[48, 96]", f"[{many}]").replace("n_layers: {low: 0, high: 2}", "n_layers: {low: 0, high: 96}")
    text = text.replace("initial_points", f"  n_heads: {{low: 1, high: 1024}}\n  units: {wide}\ninitial_points")
    started = time.perf_counter()
    with pytest.raises(StudyError, match="n_heads must divide the width"):
        parse_study(text)
    assert time.perf_counter() - started < 20  # generous: other processes share this machine


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(data=st.data())
def test_no_damage_to_a_study_raises_anything_but_a_study_error(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(VALID)))
    end = data.draw(st.integers(start, min(len(VALID), start + 20)))
    noise = data.draw(st.text(alphabet=st.sampled_from(list(" \n\t:-{}[],&*!'\"#|>%@`~.0159eaZ\0é")), max_size=8))
    try:
        parse_study(VALID[:start] + noise + VALID[end:])
    except StudyError as error:
        assert error.problems


def test_a_key_of_an_earlier_version_is_read_with_a_warning() -> None:
    with pytest.warns(FutureWarning, match=r"search\.patience is called prune_ratio now"):
        study = parse_study(VALID.replace("n_trials: 3", "n_trials: 3\n  patience: 2.5"))
    assert study.search.prune_ratio == 2.5


def test_a_key_and_its_earlier_name_are_refused_together() -> None:
    with pytest.raises(StudyError, match="remove patience"):
        parse_study(VALID.replace("n_trials: 3", "n_trials: 3\n  patience: 2.5\n  prune_ratio: 3"))
