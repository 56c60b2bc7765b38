# SPDX-License-Identifier: Apache-2.0
"""All work of a study happens on the device that it is given, and no tensor is made on torch's default device."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.optim.optimizer as optimizers
from torch.utils._device import _device_constructors

from spaces.recipe import LossWeights, Precision, RecipeSpec
from spaces.student import Projection, StaticSpec, StudentSpec, Switch
from tests.trainers.pretended_device import ELSEWHERE, PretendedDevice
from tests.trainers.tiny import SPEC, data, encoder_with, inheritance, teacher, teacher_with_tokenizer
from trainers.distil.checkpoint import load_student, save_student
from trainers.distil.loop import Distillation
from trainers.distil.static_table import train_static_table
from trainers.inherit.inherit import inherit, prepare_inheritance
from trainers.modules.build import build, weights_of
from trainers.modules.device import CPU, device_of, to_array, to_tensor
from trainers.modules.embed import embed_tokens
from trainers.teacher import forward
from trainers.teacher.cache import build_cache
from trainers.teacher.depths import embed_at_every_depth
from trainers.text.tokenised_text import tokenise

ROOT = Path(__file__).resolve().parents[2]
Arrays = dict[str, np.ndarray]

PLAIN = RecipeSpec(
    losses=LossWeights(cosine=1.0, similarity=0.5), batch_tokens=128, warmup_tokens=200, precision=Precision.FLOAT32
)
EVERY_LOSS = replace(
    PLAIN,
    losses=LossWeights(cosine=1.0, similarity=0.5, query_key=0.3, value_value=0.3, hidden=0.2),
    n_relation_heads=4,
    pruning_tokens=400,
)
STUDENTS: dict[str, tuple[StudentSpec, RecipeSpec]] = {
    "sparse, every loss": (encoder_with(n_layers=2, sparsity=0.5), EVERY_LOSS),
    "experts": (encoder_with(n_layers=1, feed_forward=Switch(n_experts=3, units=32, capacity_factor=1.25)), PLAIN),
    "narrow, factorised, with a static path": (
        replace(
            encoder_with(n_layers=1, width=16, n_heads=2, head_width=4, projection=Projection.LINEAR, embedding_dim=8),
            static=StaticSpec(embedding_dim=16),
        ),
        PLAIN,
    ),
}
TABLE = np.random.default_rng(0).standard_normal((60, 32)).astype(np.float32)
DATA, INHERITANCE = data(), inheritance(TABLE)
WORDS = tokenise(
    [" ".join(f"w{word}" for word in DATA.token_ids[start : start + 3 + start % 7] % 58) for start in range(0, 300, 5)],
    tokenizer_json=teacher_with_tokenizer().tokenizer_json,
    max_tokens=12,
)


def distilled(name: str, precision: Precision, *, device: torch.device, folder: Path) -> Arrays:
    """Inherits, trains, saves, goes on from the save in another run, and evaluates."""
    spec, recipe = STUDENTS[name]
    recipe = replace(recipe, precision=precision)
    sparsity = 0.0 if spec.encoder is None else spec.encoder.sparsity
    student = inherit(INHERITANCE, spec, seed=1, device=device)
    start = weights_of(student)
    begun = Distillation(student, recipe, DATA, seed=4, sparsity=sparsity)
    begun.advance(500)
    begun.begin_decay(500, 1000)
    begun.save(folder / name)
    resumed = Distillation(build(spec, seed=9, device=device), recipe, DATA, seed=4, sparsity=sparsity)
    resumed.restore(folder / name)
    resumed.advance(1200)
    averaged = resumed.averaged()
    assert {tensor.device for tensor in resumed._tensors().values()} <= {device, CPU}
    assert device_of(student) == device_of(averaged) == device_of(resumed.working) == device
    save_student(averaged, folder / f"{name}-student", spec=spec, tokenizer_json="{}")
    loaded = load_student(folder / f"{name}-student", device=device)
    return {
        **{f"start {key}": value for key, value in start.items()},
        **weights_of(averaged),
        **{f"loaded {key}": value for key, value in weights_of(loaded).items()},
        "fidelity": np.array(list(resumed.evaluate().to_json().values())),
    }


def prepared(*, device: torch.device, folder: Path) -> Arrays:
    """What precedes the first trial: held-out vectors at every depth, the cache, the static table, inheritance."""
    source, first_layer = teacher_with_tokenizer(), teacher().student(device=device)
    first_layer.layers = first_layer.layers[:1]
    held_out = DATA.held_out_token_ids, DATA.held_out_offsets
    depths = embed_at_every_depth(source.student(device=device), *held_out)
    cache = build_cache(
        source,
        WORDS,
        cache_dir=folder,
        device=device,
        needs_relations=True,
        needs_hidden=True,
        precision=PLAIN.precision,
    )
    inherited = prepare_inheritance(source, WORDS, static_table=TABLE, device=device)
    targets = cache.targets
    assert targets.queries is not None and targets.hidden is not None
    return {
        "depths": depths,
        "cut": embed_tokens(first_layer, *held_out),
        "embeddings": np.array(targets.embeddings),
        "queries": np.array(targets.queries),
        "hidden": np.array(targets.hidden),
        "table": train_static_table(source, DATA, n_tokens=1_000, seed=0, device=device),
        "layers": np.array([layer for layers in inherited.layers for layer in layers]),
        "calibration": inherited.calibration_embeddings,
    }


@contextmanager
def in_the_teachers_threads(enter: Callable[[], object]) -> Iterator[pytest.MonkeyPatch]:
    """Modes and default devices are a thread's own: the threads of a teacher enter theirs as they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward, "ThreadPoolExecutor", partial(ThreadPoolExecutor, initializer=enter))
        yield patch


@contextmanager
def another_default_device() -> Iterator[None]:
    """A default device on which nothing can be computed."""
    with in_the_teachers_threads(lambda: torch.set_default_device("meta")), torch.device("meta"):
        yield


@contextmanager
def another_device() -> Iterator[None]:
    """A device beside the CPU, of which torch's optimisers believe that they have kernels for it."""
    known = optimizers._get_fused_kernels_supported_devices()
    with in_the_teachers_threads(lambda: PretendedDevice().__enter__()) as patch:
        patch.setattr(optimizers, "_get_fused_kernels_supported_devices", lambda: [*known, ELSEWHERE.type])
        with PretendedDevice():
            yield


def assert_equal(found: Arrays, expected: Arrays) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def assert_close(found: Arrays, expected: Arrays) -> None:
    """Up to what another kernel of a product in bfloat16 changes."""
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=0.02, err_msg=name)


@pytest.mark.parametrize("name", STUDENTS)
def test_distillation_makes_nothing_on_the_default_device(name: str, tmp_path: Path) -> None:
    expected = distilled(name, Precision.BFLOAT16, device=CPU, folder=tmp_path / "a")
    with another_default_device():
        assert_equal(distilled(name, Precision.BFLOAT16, device=CPU, folder=tmp_path / "b"), expected)


def test_preparation_makes_nothing_on_the_default_device(tmp_path: Path) -> None:
    expected = prepared(device=CPU, folder=tmp_path / "a")
    with another_default_device():
        assert_equal(prepared(device=CPU, folder=tmp_path / "b"), expected)


@pytest.mark.parametrize("name", STUDENTS)
def test_distillation_on_another_device_gives_what_it_gives_on_the_cpu(name: str, tmp_path: Path) -> None:
    expected = distilled(name, Precision.FLOAT32, device=CPU, folder=tmp_path / "a")
    with another_device():
        assert_close(distilled(name, Precision.FLOAT32, device=ELSEWHERE, folder=tmp_path / "b"), expected)


def test_the_working_copy_in_bfloat16_is_on_the_students_device(tmp_path: Path) -> None:
    with another_device():
        assert np.isfinite(
            distilled("experts", Precision.BFLOAT16, device=ELSEWHERE, folder=tmp_path)["fidelity"]
        ).all()


def test_preparation_on_another_device_gives_what_it_gives_on_the_cpu(tmp_path: Path) -> None:
    expected = prepared(device=CPU, folder=tmp_path / "a")
    with another_device():
        assert_close(prepared(device=ELSEWHERE, folder=tmp_path / "b"), expected)


def test_a_tensor_of_another_device_is_an_error_on_the_pretended_device() -> None:
    with another_device():
        elsewhere = torch.ones(3, device=ELSEWHERE)
        assert (elsewhere + 1.0).cpu().tolist() == [2.0, 2.0, 2.0]
        with pytest.raises(RuntimeError, match="must be on one device, got meta and cpu"):
            elsewhere + torch.ones(3, device=CPU)
        with pytest.raises((TypeError, NotImplementedError, RuntimeError)):
            elsewhere.numpy()
        with pytest.raises(RuntimeError, match="must run on meta, got one on the CPU"):
            build(SPEC, seed=0, device=CPU)(torch.zeros(1, 4, dtype=torch.long, device=CPU))


def test_equal_seeds_give_equal_weights_on_every_device() -> None:
    with another_device():
        assert_equal(weights_of(build(SPEC, seed=3, device=ELSEWHERE)), weights_of(build(SPEC, seed=3)))


def test_arrays_and_tensors_of_the_cpu_share_their_memory() -> None:
    array = np.zeros(3, np.float32)
    tensor = to_tensor(array, CPU)
    tensor += 1.0
    assert array.tolist() == [1.0, 1.0, 1.0]
    assert np.shares_memory(to_array(tensor), array)


def test_a_network_on_two_devices_is_refused() -> None:
    student = build(SPEC, seed=0)
    student.layers[0].to("meta")
    with pytest.raises(ValueError, match=r"on one device, got cpu, meta; move it"):
        device_of(student)


# What follows reads the source, for what no test runs.

MAKERS = {function.__name__ for function in _device_constructors()}
LAYERS = {"Linear", "Bilinear", "LayerNorm", "RMSNorm", "BatchNorm1d", "Embedding", "EmbeddingBag", "Buffer"}
NETWORKS = {"build", "student_from_weights", "load_student"}
CROSSING = Path("trainers/modules/device.py")
LATENCY = Path("trainers/measure")  # a latency is that of the CPU, whatever device trains


def forgotten(tree: ast.AST, path: Path) -> list[str]:
    """The calls that make a tensor or a network without naming its device, or cross between NumPy and torch."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        name = called.rpartition(".")[2]
        names_device = any(keyword.arg == "device" for keyword in node.keywords)
        crosses = (name in {"from_numpy", "numpy", "cuda"} and "." in called) or called == "torch.frombuffer"
        makes = (called.startswith("torch.") and name in MAKERS) or (called.startswith("nn.") and name in LAYERS)
        makes = makes or name == "safe_open" or called.endswith(".student")
        makes = makes or (called in NETWORKS and LATENCY not in path.parents)
        if (
            (makes and not names_device)
            or (crosses and path != CROSSING and LATENCY not in path.parents)
            or (name == "Generator" and not node.args and not names_device)
            or (called in {"torch.Tensor", "torch.FloatTensor", "torch.LongTensor", "torch.set_default_device"})
        ):
            found.append(f"{path}:{node.lineno}: {called}")
    return found


def test_no_source_forgets_a_device() -> None:
    files = [path for room in ("trainers", "search") for path in sorted((ROOT / room).rglob("*.py"))]
    texts = {path.relative_to(ROOT): path.read_text("utf-8") for path in files}
    torch_users = {path: text for path, text in texts.items() if re.search(r"\bimport torch\b|\bfrom trainers\.", text)}
    assert len(torch_users) > 40
    assert [line for path, text in torch_users.items() for line in forgotten(ast.parse(text), path)] == []


@pytest.mark.parametrize(
    "line",
    [
        "torch.zeros(3)",
        "torch.eye(len(x), dtype=torch.bool)",
        "torch.tensor([1])",
        "torch.randperm(3, generator=g)",
        "nn.Linear(3, 3)",
        "torch.Generator()",
        "torch.from_numpy(x)",
        "x.detach().cpu().numpy()",
        "safe_open(path, framework='pt')",
        "build(spec, seed=0)",
        "teacher.student()",
    ],
)
def test_the_search_for_forgotten_devices_finds_them(line: str) -> None:
    assert forgotten(ast.parse(line), Path("trainers/distil/loop.py"))


@pytest.mark.parametrize("line", ["torch.zeros(3, device=x.device)", "torch.Generator(CPU)", "torch.zeros_like(x)"])
def test_the_search_for_forgotten_devices_leaves_the_others_alone(line: str) -> None:
    assert not forgotten(ast.parse(line), Path("trainers/distil/loop.py"))
