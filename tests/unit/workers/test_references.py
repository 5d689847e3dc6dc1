"""Random directions with the lengths of a checkpoint, or with the rank and spectrum of an adapter."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from orchestrator.sweep.directions import from_json
from orchestrator.sweep.directions.matched import MatchedDirection
from orchestrator.sweep.directions.shuffled import ShuffledDirection
from orchestrator.sweep.directions.towards import TowardsDirection
from orchestrator.sweep.grid import ExtraCheckpoint, Grid, Sweep
from orchestrator.sweep.points import Point
from orchestrator.utils.choices import GridKind, Norm
from tests.unit.workers.test_resident import save
from workers.engines.base import measure_scalars
from workers.noise.definition import Slab
from workers.noise.reference import z_int
from workers.weights import references
from workers.weights.checkpoint import MappedCheckpoint
from workers.weights.layout import Region
from workers.weights.materialize import from_bf16, to_bf16
from workers.weights.perturbation import by_tensor
from workers.weights.resident import ResidentWeights
from workers.weights.targets import Target, open_endpoint, open_endpoints

SHAPES = {
    "q.weight": (24, 40),
    "k.weight": (24, 40),
    "norm.weight": (40,),
    "same.weight": (8, 8),
    "empty.weight": (0, 8),
}
RANK, SCALE = 3, 4 / math.sqrt(3)
SEED = 11


class World:
    """A base in bfloat16, a float32 checkpoint and an adapter, and the live weights of one process in float32."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(3)
        self.base = {name: to_bf16(rng.standard_normal(shape).astype(np.float32)) for name, shape in SHAPES.items()}
        self.full = {name: from_bf16(w) for name, w in self.base.items()}
        for name in ("q.weight", "k.weight", "norm.weight"):
            self.full[name] = self.full[name] + rng.standard_normal(SHAPES[name]).astype(np.float32) / 10
        self.a = rng.standard_normal((RANK, 40)).astype(np.float32)
        self.b = (rng.standard_normal((24, RANK)) * [9, 3, 1]).astype(np.float32)  # far from equal singular values
        factors = {"base_model.model.k.lora_A.weight": self.a, "base_model.model.k.lora_B.weight": self.b}
        config: dict[str, Any] = {"peft_type": "LORA", "r": RANK, "lora_alpha": 4, "use_rslora": True}
        self.checkpoint = MappedCheckpoint(save(folder / "base", self.base))
        lora = save(folder / "lora", factors, "adapter_model.safetensors", **config)
        self.targets = (
            Target("full", "checkpoint", str(save(folder / "full", self.full))),
            Target("lora", "adapter", str(lora)),
        )
        parameters = {name: torch.zeros(math.prod(shape)) for name, shape in SHAPES.items()}
        layout = {name: [Region(name, Slab.whole(math.prod(shape)))] for name, shape in SHAPES.items()}
        endpoints = open_endpoints(self.targets, self.checkpoint)
        self.weights = ResidentWeights(self.checkpoint, layout, parameters, "float32", endpoints)
        self.weights._moved |= set(SHAPES)  # live memory starts with zeros, not with the base as in an engine
        self.weights.restore()

    def measure(self, direction: MatchedDirection) -> pa.Table:
        return measure_scalars(self.checkpoint, direction, self.targets)

    def written(self, name: str) -> np.ndarray:
        (piece,) = self.weights.read(name)
        return piece.values.reshape(-1).view(np.float32).reshape(SHAPES[name])


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def displacement(world: World, reference: str, name: str) -> np.ndarray:
    """Return W1 - W0 of the checkpoint, or s B A of the adapter, in float64."""
    if reference == "full":
        return world.full[name].astype(np.float64) - from_bf16(world.base[name])
    update = SCALE * world.b.astype(np.float64) @ world.a.astype(np.float64)
    return update if name == "k.weight" else np.zeros(SHAPES[name])


@pytest.mark.parametrize("reference", ["full", "lora"])
def test_a_matched_direction_is_as_long_as_the_displacement_of_each_tensor(world: World, reference: str) -> None:
    direction = MatchedDirection(SEED, reference=reference)
    table = world.measure(direction)
    point = Point.from_coefficients([(direction, 1.0)])
    world.weights.apply_point(point, {direction.id: table})
    factors = {name: float(scalars[0][0]) for name, scalars in by_tensor(table).items()}
    assert factors.keys() == SHAPES.keys() - {"empty.weight"}
    for name in factors:
        base = from_bf16(world.base[name])
        noise = z_int(SEED, name, 0, base.size).reshape(base.shape).astype(np.float64) / 4096
        length = np.linalg.norm(displacement(world, reference, name))
        assert factors[name] == pytest.approx(length / np.linalg.norm(noise), rel=1e-6)
        expected = base + np.float32(factors[name]) * noise.astype(np.float32)
        assert np.array_equal(world.written(name), expected), name
        assert np.linalg.norm(world.written(name).astype(np.float64) - base) == pytest.approx(length, rel=1e-5)
    unmoved = {name for name, factor in factors.items() if factor == 0}
    assert unmoved == ({"same.weight"} if reference == "full" else set(factors) - {"k.weight"})


def test_an_orthogonal_matched_direction_keeps_its_length(world: World) -> None:
    direction = MatchedDirection(SEED, orthogonal_to=5, reference="full")
    on_self, on_other = by_tensor(world.measure(direction))["q.weight"]
    first, second = (z_int(seed, "q.weight", 0, 960).astype(np.float64) / 4096 for seed in (5, SEED))
    moved = on_self * second + on_other * first
    assert abs(moved @ first) < 1e-9 * np.linalg.norm(moved) * np.linalg.norm(first)
    assert np.linalg.norm(moved) == pytest.approx(np.linalg.norm(displacement(world, "full", "q.weight")), rel=1e-6)


def shuffled_by_hand(world: World, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the factors (A', B') of `k.weight` as docs/noise.md defines them, one element at a time."""

    def words(part: str, n: int) -> list[int]:
        digest = hashlib.shake_128(f"shuffled\n{seed}\nk.weight\n{part}".encode()).digest(8 * n)
        return [int.from_bytes(digest[8 * i : 8 * i + 8], "little") for i in range(n)]

    a, b = np.empty_like(world.a), np.empty_like(world.b)
    for part, n in (("rows", 24), ("columns", 40)):
        numbers = words(part, n)
        for place, taken in enumerate(sorted(range(n), key=lambda i: numbers[i])):
            sign = np.float32(-1 if numbers[place] % 2 else 1)
            if part == "rows":
                b[place] = sign * world.b[taken]
            else:
                a[:, place] = sign * world.a[:, taken]
    return a, b


@pytest.mark.parametrize("coefficient", [1.0, -2.5])
def test_a_shuffled_direction_is_written_as_an_adapter_of_its_own(world: World, coefficient: float) -> None:
    direction = ShuffledDirection(SEED, "lora")
    world.weights.apply_point(Point.from_coefficients([(direction, coefficient)]), {})
    a, b = shuffled_by_hand(world, SEED)
    update = b[:, :1] * a[:1]
    for i in range(1, RANK):
        update = update + b[:, i : i + 1] * a[i : i + 1]
    expected = from_bf16(world.base["k.weight"]) + np.float32(coefficient * SCALE) * update
    assert np.array_equal(world.written("k.weight"), expected)
    for name in set(SHAPES) - {"k.weight"}:
        assert np.array_equal(world.written(name), from_bf16(world.base[name])), name


def test_a_shuffled_direction_has_the_spectrum_of_the_adapter_and_no_other_likeness(world: World) -> None:
    adapter = displacement(world, "lora", "k.weight")
    values = np.linalg.svd(adapter, compute_uv=False)
    cosines = []
    for seed in range(200):
        a, b = ShuffledDirection(seed, "lora").rearrange("k.weight", world.a, world.b)
        shuffled = SCALE * b.astype(np.float64) @ a.astype(np.float64)
        assert np.linalg.svd(shuffled, compute_uv=False) == pytest.approx(values, rel=1e-6, abs=1e-5)
        cosines.append((adapter * shuffled).sum() / (values**2).sum())
    # The mean of the entry-wise product is 0, and its variance 1 / (rows x columns) for signs that are independent.
    assert abs(np.mean(cosines)) < 4 / math.sqrt(200 * 960)
    assert np.std(cosines) == pytest.approx(1 / math.sqrt(960), rel=0.25)


def test_rows_and_columns_of_each_tensor_are_shuffled_independently(world: World) -> None:
    direction = ShuffledDirection(SEED, "lora")
    a, _ = direction.rearrange("k.weight", world.a, world.b)
    other, _ = direction.rearrange("q.weight", world.a, world.b)
    assert not np.array_equal(a, other)
    square = np.ones((24, 1), np.float32)
    rows, columns = direction.rearrange("k.weight", square.T, square)
    assert not np.array_equal(rows.reshape(-1), columns.reshape(-1))


def test_two_controls_and_the_adapter_itself_add_up(world: World) -> None:
    matched, shuffled = MatchedDirection(SEED, reference="full"), ShuffledDirection(SEED, "lora")
    point = Point.from_coefficients([(matched, 0.5), (shuffled, -1.0)])
    world.weights.apply_point(point, {matched.id: world.measure(matched)})
    a, b = (x.astype(np.float64) for x in shuffled_by_hand(world, SEED))
    noise = z_int(SEED, "k.weight", 0, 960).reshape(24, 40).astype(np.float64)
    length = np.linalg.norm(displacement(world, "full", "k.weight"))
    expected = from_bf16(world.base["k.weight"]) - SCALE * b @ a + 0.5 * length * noise / np.linalg.norm(noise)
    assert world.written("k.weight") == pytest.approx(expected, abs=1e-5)
    world.weights.apply_point(Point(), {})
    assert np.array_equal(world.written("k.weight"), from_bf16(world.base["k.weight"]))


def test_squared_lengths_do_not_depend_on_the_size_of_blocks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for target in world.targets:
        endpoint = open_endpoint(target, world.checkpoint)
        info = world.checkpoint["k.weight"]
        whole = references.squared_length(endpoint, world.checkpoint, info)
        monkeypatch.setattr(references, "BLOCK", 100)  # two rows of 40
        assert references.squared_length(endpoint, world.checkpoint, info) == pytest.approx(whole, rel=1e-14)
        assert whole == pytest.approx((displacement(world, target.fingerprint, "k.weight") ** 2).sum(), rel=1e-6)


def test_a_shuffled_direction_of_a_checkpoint_cannot_be_applied(world: World) -> None:
    with pytest.raises(AssertionError, match="from an adapter, not a checkpoint"):
        world.weights.apply_point(Point.from_coefficients([(ShuffledDirection(SEED, "full"), 1.0)]), {})


@pytest.mark.parametrize(
    ("direction", "described", "direction_id"),
    [
        (
            MatchedDirection(123, reference="0123456789abcdef"),
            '{"kind":"matched","orthogonal_to":null,"reference":"0123456789abcdef","seed":123}',
            "528b8a0b591d2977",
        ),
        (
            ShuffledDirection(123, "0123456789abcdef"),
            '{"kind":"shuffled","reference":"0123456789abcdef","seed":123}',
            "b549f4c4cf4f5a38",
        ),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_their_ids(direction: MatchedDirection | ShuffledDirection, described: str, direction_id: str) -> None:
    assert json.dumps(direction.to_json(), sort_keys=True, separators=(",", ":")) == described
    assert hashlib.blake2b(described.encode(), digest_size=8).hexdigest() == direction.id == direction_id
    assert from_json(json.loads(described)) == direction
    assert from_json(json.loads(described)).to_json() == direction.to_json()


def test_a_grid_that_matches_a_checkpoint_is_restored_from_json() -> None:
    adapter = TowardsDirection("aa", "mine")
    grid = Grid(steps=4, directions=2, direction="shuffled", match=adapter, norm=Norm.filter, exclude=("embed",))
    stored = json.loads(json.dumps(grid.to_json()))
    assert stored["match"] == {"kind": "towards", "fingerprint": "aa"} and stored["direction"] == "shuffled"
    assert not {"norm", "exclude"} & stored.keys(), "they have no effect on directions that match a checkpoint"
    restored = Grid.from_json(stored, {"aa": "mine"})
    assert restored.match == adapter and restored.match.label == "mine"
    assert [restored.axes(k)[0] for k in (0, 1)] == [ShuffledDirection(123, "aa"), ShuffledDirection(124, "aa")]
    assert restored.nodes == grid.nodes and Sweep(restored, ("p",)).id == Sweep(grid, ("p",)).id
    assert grid.directions_used == (), "an adapter's factors need no scalars"
    matched = Grid(steps=4, directions=1, direction="matched", match=adapter)
    assert matched.directions_used == (MatchedDirection(123, reference="aa"),)
    assert not {node.mark for node in grid.nodes} - {""}, "no checkpoint is on these lines"
    assert "match" not in Grid().to_json()


def test_controls_beside_a_line_are_restored_and_measured_first() -> None:
    adapter = TowardsDirection("aa", "mine")
    controls = (MatchedDirection(123, reference="aa"), ShuffledDirection(124, "aa"))
    extra = tuple(ExtraCheckpoint(direction, 0.0) for direction in controls)
    grid = Grid(GridKind.interpolate_1d, steps=2, range=(0.0, 1.0), towards=(adapter,), extra_checkpoints=extra)
    restored = Grid.from_json(json.loads(json.dumps(grid.to_json())), {"aa": "mine"})
    assert restored == grid and restored.nodes == grid.nodes
    assert [(n.mark, n.alpha, n.projected, n.seed_x) for n in grid.nodes if n.mark] == [
        ("mine", 1.0, False, None),
        ("matched 123", 0.0, True, None),
        ("shuffled 124", 0.0, True, None),
    ]
    assert [n.point.coefficients for n in grid.nodes if n.projected] == [((d, 1.0),) for d in controls]
    assert grid.directions_used == controls[:1], "the scalars of a matched direction are needed, those of noise only"
