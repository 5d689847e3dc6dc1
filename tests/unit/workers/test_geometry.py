"""Checkpoint geometry, compared with plain float64 NumPy on complete models."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from orchestrator.analysis import reducer
from orchestrator.analysis.results.basin import Estimate
from orchestrator.analysis.results.checkpoints import CheckpointSummary
from orchestrator.config.compose import compose
from orchestrator.config.presets import Presets
from orchestrator.models.geometry import describe, table
from orchestrator.pipeline.prepare import prepare
from orchestrator.store.records import SweepRecord
from orchestrator.store.study import Study, StudyInfo
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.sweep.directions.towards import TowardsDirection
from orchestrator.sweep.grid import Grid, Sweep
from orchestrator.sweep.points import Point
from orchestrator.sweep.target_geometry import TargetGeometry
from orchestrator.utils.errors import UserError
from workers.noise.definition import Slab
from workers.noise.reference import product, to_float32
from workers.weights import geometry
from workers.weights.checkpoint import MappedCheckpoint
from workers.weights.layout import Region
from workers.weights.materialize import from_bf16, to_bf16
from workers.weights.resident import ResidentWeights
from workers.weights.targets import Target, open_endpoints

pytestmark = pytest.mark.thorough


SHAPES = {"embed.weight": (40, 24), "q.weight": (24, 24), "norm.weight": (24,), "experts.weight": (3, 8, 24)}


def write(folder: Path, tensors: dict[str, np.ndarray], name: str = "model.safetensors") -> Path:
    """Write float32 arrays and bfloat16 arrays (as uint16 bits) to a safetensors file."""
    folder.mkdir(parents=True, exist_ok=True)
    header: dict[str, Any] = {}
    position = 0
    for key, array in tensors.items():
        dtype = {"float32": "F32", "uint16": "BF16", "float16": "F16"}[array.dtype.name]
        header[key] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [position, position + array.nbytes]}
        position += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / name).write_bytes(
        len(text).to_bytes(8, "little") + text + b"".join(array.tobytes() for array in tensors.values())
    )
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    return folder


def weights(seed: int, around: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    drawn = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    return drawn if around is None else {name: around[name] + np.float32(0.1) * drawn[name] for name in SHAPES}


def flat(tensors: dict[str, np.ndarray]) -> np.ndarray:
    arrays = [tensors[name] for name in sorted(tensors)]
    return np.concatenate([(from_bf16(a) if a.dtype == np.uint16 else a).astype(np.float64).ravel() for a in arrays])


def write_adapter(folder: Path, module: str, a: np.ndarray, b: np.ndarray, alpha: float) -> Target:
    prefix = f"base_model.model.{module}.lora_"
    write(folder, {f"{prefix}A.weight": a, f"{prefix}B.weight": b}, "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": len(a), "lora_alpha": alpha}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return Target(folder.name, "adapter", str(folder))


@pytest.fixture
def measurement(tmp_path: Path) -> tuple[geometry.Geometry, list[np.ndarray]]:
    """A base, three checkpoints (one in bfloat16) and an adapter: measured in small blocks, and as flat vectors."""
    base = weights(0)
    others = [weights(1, base), weights(2, base), {k: to_bf16(v) for k, v in weights(3, base).items()}]
    folder = write(tmp_path / "base", base)
    targets = [
        Target(str(i), "checkpoint", str(write(tmp_path / f"other{i}", tensors)), f"other{i}")
        for i, tensors in enumerate(others)
    ]
    rng = np.random.default_rng(4)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 24), (24, 2)))
    adapter = write_adapter(tmp_path / "adapter", "q", a, b, 1)
    merged = base | {"q.weight": base["q.weight"] + 0.5 * product(a, b).astype(np.float64)}
    shares: list[float] = []
    measured = geometry.measure(MappedCheckpoint(folder), [*targets, adapter], shares.append, block=100)
    assert shares == sorted(shares) and shares[-1] == 1.0 and len(shares) > 10
    assert measured.labels == ("other0", "other1", "other2", "adapter")
    return measured, [flat(base), *map(flat, others), flat(merged)]


Measurement = tuple[geometry.Geometry, list[np.ndarray]]


def test_distances_and_cosines(measurement: Measurement) -> None:
    measured, vectors = measurement
    d = [v - vectors[0] for v in vectors[1:]]
    for i, a in enumerate(vectors):
        for j, b in enumerate(vectors):
            assert measured.distances[i, j] == pytest.approx(np.linalg.norm(a - b), rel=1e-9, abs=1e-5)
    for i, a in enumerate(d):
        for j, b in enumerate(d):
            assert measured.cosines[i, j] == pytest.approx(a @ b / math.sqrt((a @ a) * (b @ b)), abs=1e-12)
    assert measured.base == pytest.approx(np.linalg.norm(vectors[0]), rel=1e-12)
    assert np.allclose(measured.lengths, [np.linalg.norm(v) for v in d], rtol=1e-12)


def test_eq4_matches_the_paper(measurement: Measurement) -> None:
    measured, vectors = measurement
    d1, d2 = vectors[1] - vectors[0], vectors[2] - vectors[0]
    c, s = measured.eq4()
    second = s * (d2 - c * d1)
    assert abs(second @ d1) / (d1 @ d1) < 1e-8
    assert np.linalg.norm(second) == pytest.approx(np.linalg.norm(d1), rel=1e-8)
    assert (c, s) == (round(c, 9), round(s, 9))


def test_coordinates_are_those_of_the_nearest_point_of_the_plane(measurement: Measurement) -> None:
    measured, vectors = measurement
    d = np.stack([v - vectors[0] for v in vectors[1:]])
    coordinates = measured.coordinates()
    for i, row in enumerate(coordinates):
        expected, *_ = np.linalg.lstsq(d[:2].T, d[i], rcond=None)
        assert row[:2] == pytest.approx(expected, abs=1e-9)
        assert row[2] == pytest.approx(np.linalg.norm(d[i] - expected @ d[:2]), abs=1e-5)
    assert coordinates[:2, :2] == pytest.approx(np.eye(2), abs=1e-9)


def test_the_principal_plane_is_that_of_the_complete_vectors(measurement: Measurement) -> None:
    measured, vectors = measurement
    points = np.stack(vectors)
    centered = points - points.mean(axis=0)
    _, singular, axes = np.linalg.svd(centered, full_matrices=False)
    coordinates, shares, mixing = measured.principal()
    assert shares == pytest.approx(singular[:2] ** 2 / np.sum(singular**2), rel=1e-9)
    for k in range(2):
        expected = centered @ axes[k]
        sign = np.sign(expected @ coordinates[:, k])
        assert coordinates[:, k] == pytest.approx(sign * expected, abs=1e-7)
        axis = mixing[k] @ points
        assert axis == pytest.approx(sign * axes[k], abs=1e-8)
        assert abs(mixing[k].sum()) < 1e-9


def test_memory_is_bounded_by_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most `block` elements (or a matrix's row) are converted to float64 at once, and the pages are released."""
    base = weights(0)
    folders = [write(tmp_path / "base", base), write(tmp_path / "other", weights(1, base))]
    sizes: list[int] = []
    released: list[str] = []
    monkeypatch.setattr(geometry, "to_float32", lambda a, dtype: sizes.append(len(a)) or to_float32(a, dtype))
    release = MappedCheckpoint.release
    monkeypatch.setattr(MappedCheckpoint, "release", lambda self, name: released.append(name) or release(self, name))
    geometry.measure(MappedCheckpoint(folders[0]), [Target("x", "checkpoint", str(folders[1]))], block=50)
    assert max(sizes) == 50, "of the experts too, each of which is longer than the block"
    assert sorted(released) == sorted([*SHAPES, *SHAPES])


def test_targets_that_span_no_plane_are_refused(tmp_path: Path) -> None:
    base = weights(0)
    other = weights(1, base)
    far = {name: base[name] + np.float32(2) * (other[name] - base[name]) for name in SHAPES}
    folders = {
        "base": write(tmp_path / "base", base),
        "same": write(tmp_path / "same", base),
        "other": write(tmp_path / "other", other),
        "far": write(tmp_path / "far", far),
    }

    def measured(*names: str) -> geometry.Geometry:
        targets = [Target(name, "checkpoint", str(folders[name])) for name in names]
        return geometry.measure(MappedCheckpoint(folders["base"]), targets)

    with pytest.raises(UserError, match="has length 0"):
        measured("other", "same").eq4()
    with pytest.raises(UserError, match="one line"):
        measured("other", "far").eq4()
    assert math.isnan(measured("same").cosines[0, 0])


def test_the_principal_plane_is_the_nearest_through_the_base(measurement: Measurement) -> None:
    """Compare with the singular vectors of the displacements."""
    measured, vectors = measurement
    d = np.stack([v - vectors[0] for v in vectors[1:]])
    _, sizes, right = np.linalg.svd(d, full_matrices=False)
    coordinates, weights, share = measured.principal_axes()
    axes = weights @ d
    assert np.allclose(axes @ axes.T, np.eye(2) * (d[-1] @ d[-1]), rtol=1e-6, atol=1e-6 * (d[-1] @ d[-1]))
    assert share == pytest.approx((sizes[:2] ** 2).sum() / (sizes**2).sum(), rel=1e-9)
    assert np.allclose(coordinates @ axes, d @ right[:2].T @ right[:2], atol=1e-5), "each one's nearest place"
    assert (coordinates[-1] >= 0).all(), "the end is up and to the right"


def nearest_bfloat16(x: np.ndarray) -> np.ndarray:
    """Round to 8 significant bits in float64, to nearest, ties to even."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.rint(np.ldexp(mantissa, 8)), exponent - 8)


SMALL = 0.0007  # length of the adapter below, as a share of the norm of the weights that it changes


@pytest.fixture
def small_adapter(tmp_path: Path) -> tuple[MappedCheckpoint, Target, np.ndarray, np.ndarray]:
    """A bfloat16 matrix and an adapter that moves it by 0.07% of its norm; both also as W0 and s B A in float64."""
    rng = np.random.default_rng(16)
    w = to_bf16(rng.standard_normal((400, 300)).astype(np.float32) / 20)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((8, 300), (400, 8)))
    exact, update = from_bf16(w).astype(np.float64), b.astype(np.float64) @ a.astype(np.float64)
    alpha = float(8 * SMALL * np.linalg.norm(exact) / np.linalg.norm(update))
    base = MappedCheckpoint(write(tmp_path / "base", {"q.weight": w}))
    return base, write_adapter(tmp_path / "small", "q", a, b, alpha), exact, alpha / 8 * update


def held_at(base: MappedCheckpoint, target: Target, coefficient: float, dtype: str) -> np.ndarray:
    """Return the weights that an engine of this dtype holds toward a target, float64."""
    parameter = torch.zeros(400, 300, dtype=getattr(torch, dtype))
    layout = {"q.weight": [Region("q", Slab.whole(parameter.numel()))]}
    endpoints = open_endpoints([target], base)
    resident = ResidentWeights(base, layout, {"q": parameter}, dtype, endpoints)
    resident.apply_canary()  # live memory starts with zeros, not with the base as in an engine
    resident.apply_point(Point.from_coefficients([(TowardsDirection(target.fingerprint), coefficient)]), {})
    return parameter.double().numpy()


@pytest.mark.parametrize("coefficient", [1.0, 0.5, -0.25])
def test_a_small_adapter_in_a_bfloat16_checkpoint_moves_a_float32_engine_as_trained(
    small_adapter: tuple[MappedCheckpoint, Target, np.ndarray, np.ndarray], coefficient: float
) -> None:
    """Compare with float64. Rounded to bfloat16 first, as adapter version 1 was, most of such an adapter is lost."""
    base, target, exact, update = small_adapter
    moved = held_at(base, target, coefficient, "float32") - exact
    wanted = coefficient * update
    assert np.linalg.norm(moved - wanted) / np.linalg.norm(wanted) < 2e-4
    assert cosine(moved, wanted) > 1 - 1e-7
    assert np.mean(moved == 0) < 1e-3
    rounded = nearest_bfloat16(exact + update) - exact
    assert np.linalg.norm(rounded - update) / np.linalg.norm(update) > 0.7
    assert cosine(rounded, update) < 0.75 and np.mean(rounded == 0) > 0.8


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.vdot(x, y) / (np.linalg.norm(x) * np.linalg.norm(y)))


def test_the_geometry_is_that_of_the_adapter_and_tells_what_rounding_adds(
    small_adapter: tuple[MappedCheckpoint, Target, np.ndarray, np.ndarray],
) -> None:
    base, target, exact, update = small_adapter
    length = np.linalg.norm(update)
    for dtype in ("float32", "bfloat16"):
        measured = geometry.measure(base, [target], dtype=dtype, block=700)
        assert measured.lengths[0] == pytest.approx(length, rel=1e-6)
        assert measured.lengths[0] / measured.base == pytest.approx(SMALL, rel=1e-6)
        held = held_at(base, target, 1.0, dtype) - held_at(base, target, 0.0, dtype)
        assert measured.rounding[0] == pytest.approx(np.linalg.norm(held - update) / length, rel=1e-3)
    error = nearest_bfloat16(exact + update) - exact - update
    assert measured.rounding[0] == pytest.approx(np.linalg.norm(error) / length, rel=1e-3)
    assert measured.rounding[0] > 0.7


def test_a_checkpoint_in_the_engines_dtype_is_not_rounded(tmp_path: Path) -> None:
    base = {name: to_bf16(array) for name, array in weights(0).items()}
    near = {name: from_bf16(array) * np.float32(1.0007) for name, array in base.items()}
    narrow = {name: to_bf16(array) for name, array in near.items()}
    targets = [
        Target(name, "checkpoint", str(write(tmp_path / name, tensors)))
        for name, tensors in (("near", near), ("other", {k: to_bf16(v) for k, v in weights(1).items()}))
    ]
    mapped = MappedCheckpoint(write(tmp_path / "base", base))
    kept, lost = (geometry.measure(mapped, targets, dtype=dtype).rounding for dtype in ("float32", "bfloat16"))
    assert kept == (0.0, 0.0)
    displacement = flat(near) - flat(base)
    error = flat(narrow) - flat(near)
    assert lost == (pytest.approx(np.linalg.norm(error) / np.linalg.norm(displacement)), 0.0)


def test_a_straight_trajectory_spans_no_plane() -> None:
    straight = geometry.Geometry(("epoch-1", "epoch-2"), np.outer([1.0, 2.0], [1.0, 2.0]), 1.0)
    with pytest.raises(UserError, match="lies on one line") as raised:
        straight.principal_axes()
    assert raised.value.field == "grid.trajectory"


def test_random_directions_move_all_tensors_that_are_not_excluded(measurement: Measurement) -> None:
    measured, vectors = measurement
    norm = weights(0)["norm.weight"].astype(np.float64)
    assert measured.moved**2 == pytest.approx(vectors[0] @ vectors[0] - norm @ norm, rel=1e-9)


# The `geometry` command.


def test_the_command_reports_the_geometry_of_checkpoint_files(tmp_path: Path, make_tiny: Callable[..., Path]) -> None:
    folders = [make_tiny("llama", seed=seed) for seed in range(4)]
    config = compose([f"model.path={folders[0]}", "grid=interpolate_1d", f"grid.towards=[{folders[1]},{folders[2]}]",
                      f"grid.beside=[{folders[3]}]"])  # fmt: skip
    result = describe(config, Presets())
    flat = [np.concatenate([load_file(folder / "model.safetensors")[name].ravel().astype(np.float64) for name in names])
            for folder in folders for names in [sorted(load_file(folder / "model.safetensors"))]]  # fmt: skip
    for i, a in enumerate(flat):
        for j, b in enumerate(flat):
            assert result["distances"][i][j] == pytest.approx(np.linalg.norm(a - b), rel=1e-9, abs=1e-6)
    first, second = flat[1] - flat[0], flat[2] - flat[0]
    cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    assert result["cosines"][1][0] == pytest.approx(cosine, rel=1e-9)
    assert result["checkpoints"][2]["share"] == pytest.approx(
        np.linalg.norm(flat[3] - flat[0]) / np.linalg.norm(flat[0])
    )
    head, rows = table(result)
    assert len(rows) == 4 and {len(row) for row in rows} == {len(head)} and rows[2][1] == folders[2].name
    with pytest.raises(UserError, match="name checkpoints"):
        describe(compose([f"model.path={folders[0]}"]), Presets())


def test_the_command_refuses_inputs_it_cannot_measure(
    make_tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SAFETY_LANDSCAPE_CACHE", str(tmp_path / "cache"))
    folder, other = (make_tiny("llama", dtype="bfloat16", seed=seed) for seed in (10, 11))
    overrides = [f"model.path={folder}", "grid=interpolate_1d", f"grid.towards=[{other}]", "grid.exclude=[weight]"]
    with pytest.raises(UserError, match=r"^grid\.exclude=\[weight\]: leaves no weight .*exclude fewer$"):
        describe(compose(overrides), Presets())


def test_a_sweep_that_excludes_every_tensor_has_no_distance(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    towards = TowardsDirection("f1", "tuned")
    sweep = Sweep(Grid("interpolate_1d", steps=1, range=(0.0, 1.0), towards=(towards,)), ("s",), ("keyword",))
    end = next(node.point.id for node in sweep.grid.iter_nodes() if node.mark)
    stored = CheckpointSummary(line=0, mark="tuned", point_id=end, alpha=1.0, beta=None, projected=False, results=())
    monkeypatch.setattr(reducer, "summarize_checkpoints", lambda frame: (stored,))
    basin = SimpleNamespace(mean_radius=Estimate(value=0.5), radius=0.5)
    monkeypatch.setattr(reducer._UnitSweeps, "random_basin", lambda _: SimpleNamespace(basin=basin, sweep_id="s"))
    study = Study.create(tmp_path, StudyInfo("tiny", "fingerprint", "float32", 1))
    stored_sweep = StoredSweep(SweepFolder.of(study, sweep), sweep)
    geometry = TargetGeometry(1.0, 0.0, {"f1": 2.0})
    stored_sweep.folder.write_record(
        SweepRecord(sweep_id=sweep.id, name=sweep.name, request=sweep.to_json(), target_geometry=geometry)
    )
    (checkpoint,) = reducer._checkpoints(stored_sweep, None, None, None)  # type: ignore[arg-type]  # not used
    assert (checkpoint.distance, checkpoint.radii) == (None, None)


def test_a_plane_of_two_targets_reads_each_file_once_and_shows_progress(
    make_tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAFETY_LANDSCAPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("orchestrator.utils.console.PLAIN_EVERY", 0.0)
    folders = [make_tiny("llama", seed=seed) for seed in range(5, 9)]
    passes: list[int] = []
    measure = geometry.measure
    monkeypatch.setattr(
        geometry,
        "measure",
        lambda base, targets, *a, **k: passes.append(len(targets)) or measure(base, targets, *a, **k),
    )
    overrides = [f"model.path={folders[0]}", "grid=interpolate_2d", f"grid.towards=[{folders[1]},{folders[2]}]",
                 f"grid.beside=[{folders[3]}]", "grid.orthogonal=true", f"out={tmp_path / 'out'}"]  # fmt: skip
    prepared = prepare(
        compose([*overrides, "probes.limit=2", "model.max_model_len=512", "sampling.max_tokens=8"]), Presets()
    )
    progress = capsys.readouterr().err
    assert passes == [3]
    plane = measure(MappedCheckpoint(folders[0]), [*prepared.targets[:2]]).eq4()
    assert prepared.sweep.grid.eq4 == pytest.approx(plane, abs=2e-9)
    for what in (f"the weights of {folders[1].name}", "the distances of the weights from the model"):
        assert f"reading {what}: 100%" in progress
