# SPDX-License-Identifier: Apache-2.0
"""A damaged student folder loads or is refused by a UserError that names a file of it, in little time and memory."""

import copy
import json
import random
import resource
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from runtime import expected_tensors, load, load_exact, write_folder
from spaces.errors import UserError
from spaces.student import Dense, EncoderSpec, Projection, StaticSpec, StudentSpec, Switch

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "the", "cat", "sat", "on", "a", "mat"]
FILES = ("student.json", "model.safetensors", "tokenizer.json")
MUCH_MEMORY = 2**30  # no student here has more than 100 kB
N_SEEDS = 600

ENCODER = EncoderSpec(
    n_layers=2, width=16, n_heads=4, head_width=4, feed_forward=Dense(units=20), max_tokens=10, embedding_dim=6
)
SWITCH = EncoderSpec(
    n_layers=1,
    width=8,
    n_heads=2,
    head_width=4,
    feed_forward=Switch(n_experts=3, units=12),
    max_tokens=9,
    projection=Projection.TANH,
)
SPECS = [
    StudentSpec(vocabulary_size=12, output_dim=16, encoder=ENCODER, static=StaticSpec(embedding_dim=5)),
    StudentSpec(vocabulary_size=12, output_dim=16, encoder=SWITCH),
    StudentSpec(vocabulary_size=12, output_dim=16, static=StaticSpec()),
]


def tokenizer_json() -> str:
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    return tokenizer.to_str()


@pytest.fixture(params=range(len(SPECS)), ids=["encoder and static", "switch", "static"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    spec = SPECS[request.param]
    generator = np.random.default_rng(0)
    weights = {
        name: generator.standard_normal(shape).astype(np.float32) for name, shape in expected_tensors(spec).items()
    }
    return write_folder(tmp_path / "student", spec, weights=weights, tokenizer_json=tokenizer_json())


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """A huge allocation fails with a MemoryError, which is no ValueError."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MUCH_MEMORY, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


def outcome(folder: Path) -> str | None:
    """What is wrong with how a folder is loaded; None if it loads, or is refused as it should be."""
    for loader in (load, load_exact):
        try:
            student = loader(folder)
        except (UserError, FileNotFoundError) as error:
            if not any(str(folder / name) in str(error) for name in FILES):
                return f"{error!r} names no file"
        except BaseException as error:  # a panic of Rust is no Exception
            return f"{loader.__name__} raised {error!r:.300}"
        else:
            if loader is load and (wrong := wrong_encoding(student)):
                return wrong
    return None


def wrong_encoding(student: Any) -> str | None:
    try:
        vectors = student.encode(["the cat sat on a mat", "", "dog"], n_threads=2)
    except ValueError:
        return None
    except BaseException as error:
        return f"encode raised {error!r:.300}"
    return None if vectors.shape == (3, 16) else f"vectors of shape {vectors.shape}"


def damaged(data: bytes, generator: random.Random) -> bytes:
    """Cut, flipped, overwritten, shortened or lengthened in one to four places, more often near the beginning."""
    for _ in range(generator.choice([1, 1, 1, 2, 4])):
        first = generator.randrange(min(len(data), 2500) if generator.random() < 0.7 else len(data)) if data else 0
        last = first + generator.randrange(50)
        match generator.randrange(5):
            case 0:
                data = data[:first]
            case 1:
                flipped = bytes(byte ^ (1 << generator.randrange(8)) for byte in data[first : first + 1])
                data = data[:first] + flipped + data[first + 1 :]
            case 2:
                data = data[:first] + generator.randbytes(1) + data[first + 1 :]
            case 3:
                data = data[:first] + data[last:]
            case 4:
                data = data[:first] + generator.choice(INSERTIONS) + data[first:]
    return data


INSERTIONS = [
    *(b"9" * 20, b"-", b"null", b"[", b"{}", b"1e999", b"NaN", b'"', b"\xff", b"true", b".5"),
    *(b"18446744073709551615", b"4294967295", bytes(8), b"\xff" * 8),
]


def test_damaged_bytes_are_read_or_refused(folder: Path) -> None:
    whole = {name: (folder / name).read_bytes() for name in FILES}
    wrong = {}
    for seed in range(N_SEEDS // len(SPECS)):
        generator = random.Random(seed)
        name = generator.choice(FILES)
        (folder / name).write_bytes(damaged(whole[name], generator))
        if said := outcome(folder):
            wrong[name, seed] = said
        (folder / name).write_bytes(whole[name])
    assert wrong == {}


HOSTILE: list[Any] = [
    *(None, True, False, "", "12", [], {}, [1], {"a": 1}, [[]]),
    *(0, -1, 1, 2, 3, 10**9, 2**31, 2**62, 2**64, -(2**63), 10**400, 10**4200, 65_537, 70_000),
    *(0.5, 16.0, -0.0, 1e-320, 1e300, float("nan"), float("inf"), float("-inf")),
]


def places(value: Any) -> Iterator[list[str | int]]:
    """The path of every value inside a JSON value, and of itself."""
    yield []
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        yield from ([key, *place] for place in places(part))


def with_value(document: Any, place: list[str | int], value: Any) -> Any:
    if not place:
        return value
    changed = copy.copy(document)
    changed[place[0]] = with_value(document[place[0]], place[1:], value)
    return changed


def test_hostile_values_in_the_document_are_refused(folder: Path) -> None:
    document = json.loads((folder / "student.json").read_text())
    wrong = {}
    for place in places(document):
        for value in HOSTILE:
            (folder / "student.json").write_text(json.dumps(with_value(document, place, value)))
            if said := outcome(folder):
                wrong[str(place), str(value)[:20]] = said
    assert wrong == {}


@pytest.mark.parametrize("folder", [0], indirect=True)
@pytest.mark.parametrize("depth", [10, 200, 400, 600, 800, 900, 950, 980, 990, 1_000, 100_000])
def test_deeply_nested_documents_are_refused(folder: Path, depth: int) -> None:
    document = json.loads((folder / "student.json").read_text())
    nested = "[" * depth + "]" * depth
    for place in (["spec"], ["spec", "encoder"], ["spec", "output_dim"], ["tokenizer"], ["tokenizer", "max_tokens"]):
        text = json.dumps(with_value(document, place, "HERE")).replace('"HERE"', nested)
        (folder / "student.json").write_text(text)
        assert outcome(folder) is None
        with pytest.raises(ValueError, match=r"student\.json"):
            load(folder)


def with_header(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    """The change of a safetensors file whose header is changed."""

    def changed(data: bytes) -> bytes:
        (n_bytes,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + n_bytes])
        text = change(header)
        text = (text if isinstance(text, str) else json.dumps(header)).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + n_bytes :]

    return changed


def with_field(key: str, value: Any) -> Callable[[bytes], bytes]:
    """Every tensor with another dtype, shape or offsets."""
    return with_header(lambda header: [header[name].update({key: value}) for name in header if name != "__metadata__"])


WEIGHTS: dict[str, Callable[[bytes], bytes]] = {
    **{
        f"header of {n} bytes": lambda data, n=n: struct.pack("<Q", n) + data[8:]
        for n in (0, 1, 2**31, 2**63, 2**64 - 1)
    },
    **{
        f"shape {shape}"[:40]: with_field("shape", shape)
        for shape in ([2**62, 4], [2**63, 2], [-1], [2**64], [], [0], [1.5], 3)
    },
    **{
        f"type {dtype}": with_field("dtype", dtype)
        for dtype in ("F16", "BF16", "F64", "I64", "F8_E4M3", "BOOL", "C64", 5)
    },
    **{
        f"offsets {offsets}"[:40]: with_field("data_offsets", offsets)
        for offsets in ([0, 2**64 - 1], [2**63, 2**63 + 4], [4, 0], [0, 0], [-4, 0], [0])
    },
    "no tensors": with_header(lambda header: header.clear()),
    "a list": with_header(lambda header: "[]"),
    "nested": with_header(lambda header: "[" * 100_000),
    "metadata of numbers": with_header(lambda header: header.update(__metadata__={"format": 1})),
    "another tensor": with_header(
        lambda header: header.update({"\udcff\x00": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}})
    ),
    "a name twice": with_header(lambda header: json.dumps(header)[:-1] + ", " + json.dumps(header)[1:]),
    "not a number": lambda data: data[:-8] + struct.pack("<ff", float("nan"), float("inf")),
    "the largest numbers": lambda data: data[:-8] + struct.pack("<ff", 3.4e38, -3.4e38),
    "the smallest numbers": lambda data: data[:-8] + struct.pack("<ff", 1e-45, -1e-45),
    "nothing": lambda data: b"",
    "more": lambda data: data + b"\0",
    "less": lambda data: data[:-1],
}
HARMLESS = {"the largest numbers", "the smallest numbers"}


@pytest.mark.parametrize("folder", [0], indirect=True)
@pytest.mark.parametrize("name", WEIGHTS)
def test_hostile_weights_are_refused(folder: Path, name: str) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(WEIGHTS[name](weights.read_bytes()))
    assert outcome(folder) is None
    if name not in HARMLESS:
        with pytest.raises(ValueError, match=r"model\.safetensors"):
            load(folder)


@pytest.mark.parametrize("folder", [2], indirect=True)
@pytest.mark.parametrize("value", HOSTILE[:-3], ids=lambda value: str(value)[:20])
def test_hostile_values_in_the_tokenizer_are_refused(folder: Path, value: Any) -> None:
    document = json.loads((folder / "tokenizer.json").read_text())
    wrong = {}
    for place in places(document):
        (folder / "tokenizer.json").write_text(json.dumps(with_value(document, place, value)))
        if said := outcome(folder):
            wrong[str(place)] = said
    assert wrong == {}


def test_a_folder_of_other_things_is_refused(tmp_path: Path, folder: Path) -> None:
    for name in FILES:
        whole = (folder / name).read_bytes()
        (folder / name).unlink()
        (folder / name).mkdir()
        with pytest.raises(ValueError, match=name):
            load(folder)
        (folder / name).rmdir()
        (folder / name).write_bytes(whole)
    (tmp_path / "file").write_text("{}")
    for path in (tmp_path / "file", tmp_path / "nothing", tmp_path / "file" / "inside"):
        with pytest.raises((ValueError, FileNotFoundError), match=path.name):
            load(path)
