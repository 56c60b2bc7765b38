# SPDX-License-Identifier: Apache-2.0
"""A calibration measures what it says, keeps it, and measures again only when something changed."""

import json
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

import trainers.measure.backends.onnx_backend
from runtime.engine import INSTRUCTION_SET, instruction_sets
from spaces.profile import LatencyProfile, Runtime
from spaces.student import Dense, EncoderSpec, StaticSpec, StudentSpec, Switch
from trainers.measure.calibration import Calibration, CalibrationPoint, cached_calibration, calibrate, machine_name
from trainers.measure.predictor import LatencyPredictor


def deep(n_layers: int, *, embedding_dim: int | None = None, switch: bool = False) -> StudentSpec:
    encoder = EncoderSpec(
        n_layers=n_layers,
        width=32,
        n_heads=2,
        head_width=16,
        feed_forward=Switch(n_experts=2, units=16) if switch else Dense(units=64),
        max_tokens=16,
        embedding_dim=embedding_dim,
    )
    return StudentSpec(vocabulary_size=500, output_dim=32, encoder=encoder, static=StaticSpec(embedding_dim=8))


TEACHER = deep(6)
SPECS = [deep(n) for n in (1, 2, 3, 4)] + [
    deep(1, embedding_dim=8),
    deep(3, switch=True),
    StudentSpec(vocabulary_size=500, output_dim=32, static=StaticSpec()),
    StudentSpec(vocabulary_size=500, output_dim=32, static=StaticSpec(embedding_dim=8)),
    deep(5),
]
PROFILE = LatencyProfile(n_tokens=16)


@pytest.mark.parametrize("runtime", list(Runtime))
def test_every_student_is_measured_beside_the_teacher(runtime: Runtime) -> None:
    told: list[tuple[int, int]] = []
    profile = LatencyProfile(runtime=runtime, n_tokens=16)
    calibration = calibrate(TEACHER, SPECS, profile, seconds=0.3, progress=lambda *done: told.append(done))
    assert [point.spec for point in calibration.points] == [TEACHER, *SPECS]
    assert told == [(8, 9), (9, 9)], "two groups, of 8 and of 1"
    assert calibration.machine == machine_name()
    latency_of = {point.spec: point.latency_ms for point in calibration.points}
    assert calibration.teacher_latency_ms == latency_of[TEACHER]
    assert latency_of[deep(1)] < latency_of[deep(3)] < 0.9 * latency_of[TEACHER]
    assert min(latency_of, key=latency_of.__getitem__).n_layers == 0


def test_a_teacher_alone_can_be_calibrated() -> None:
    calibration = calibrate(TEACHER, [], PROFILE, seconds=0.0)
    predicted = LatencyPredictor.fit(calibration).predict(TEACHER)
    assert predicted == pytest.approx(calibration.teacher_latency_ms, rel=0.1)


def test_a_calibration_goes_through_json() -> None:
    point = CalibrationPoint(spec=TEACHER, latency_ms=1.25)
    points = (point, CalibrationPoint(spec=SPECS[6], latency_ms=0.1))
    calibration = Calibration(profile=PROFILE, machine="m", points=points, backend="engine 1, portable")
    document = json.loads(json.dumps(calibration.to_json()))
    assert Calibration.from_json(document) == calibration
    del document["backend"]  # as reports find it in studies that did not record it yet
    assert Calibration.from_json(document) == replace(calibration, backend=None)


@pytest.mark.parametrize("change", [{"format": 2}, {"points": None}, {"points": [{"spec": {}}]}, {"profile": {"x": 1}}])
def test_another_document_is_refused(change: dict[str, object]) -> None:
    document = Calibration(profile=PROFILE, machine="m", points=()).to_json()
    with pytest.raises(ValueError, match=r"format|calibration|latency|spec|profile"):
        Calibration.from_json({**document, **change})


def test_a_kept_calibration_is_read_and_one_of_other_conditions_made(tmp_path: Path) -> None:
    told: list[int] = []
    tables = [StudentSpec(vocabulary_size=50, output_dim=dim, static=StaticSpec()) for dim in (4, 8, 16)]

    def get(specs: list[StudentSpec], profile: LatencyProfile = PROFILE) -> Calibration:
        return cached_calibration(
            tmp_path / "cache", tables[0], specs, profile, seconds=0.0, progress=lambda done, _: told.append(done)
        )

    first = get(tables[:2])
    assert get(tables[:2]) == first
    assert told == [2], "measured once"
    get(tables[:3])
    get(tables[:2], LatencyProfile(n_tokens=8))
    assert told == [2, 3, 2]
    files = sorted((tmp_path / "cache").iterdir())
    assert len(files) == 3
    for file in files:
        file.write_text("{")
    again = get(tables[:2])
    assert told == [2, 3, 2, 2], "a damaged file is made again"
    assert get(tables[:2]) == again


def force_another_instruction_set(patch: pytest.MonkeyPatch) -> None:
    usable = [each.name for each in instruction_sets() if each.usable]
    if len(usable) < 2:
        pytest.skip(f"this machine runs students on {usable} alone")
    patch.delenv(INSTRUCTION_SET, raising=False)
    patch.setenv(INSTRUCTION_SET, usable[-1])


def install_another_onnxruntime(patch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        return "99.0" if name == "onnxruntime" else metadata.version(name)

    patch.setattr(trainers.measure.backends.onnx_backend, "version", version)


@pytest.mark.parametrize(
    ("runtime", "change"),
    [(Runtime.ENGINE, force_another_instruction_set), (Runtime.ONNX, install_another_onnxruntime)],
)
def test_what_another_version_of_the_runtime_measured_is_not_read(
    runtime: Runtime, change: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    table = StudentSpec(vocabulary_size=50, output_dim=4, static=StaticSpec())
    profile = LatencyProfile(runtime=runtime, n_tokens=4)

    def get() -> Calibration:
        return cached_calibration(
            tmp_path, table, [table], profile, seconds=0.0, progress=lambda done, _: told.append(done)
        )

    monkeypatch.delenv(INSTRUCTION_SET, raising=False)
    first = get()
    with monkeypatch.context() as patch:
        change(patch)
        second = get()
        assert get() == second
    assert told == [1, 1]
    assert first.backend != second.backend
    assert get() == first
    assert told == [1, 1], "both are kept"
