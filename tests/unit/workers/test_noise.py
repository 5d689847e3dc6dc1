"""Noise: the test vectors of docs/noise.md, bit-exact equality of kernels and reference, and statistics of z."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri

from orchestrator.sweep.directions import from_json
from orchestrator.sweep.directions.random import RandomDirection
from orchestrator.sweep.points import Point
from workers.noise import cpu, definition, reference
from workers.noise import cpu_kernels as kernels
from workers.noise.cpu import row_sums, square_sums, sums, write_slab
from workers.noise.definition import DTYPES, TABLE_SHA256, UNIT, Array, DType, Slab, Term, table, tensor_key
from workers.noise.reference import from_float32, to_float32
from workers.weights import materialize

ROOT = Path(__file__).parents[3]
DOC = (ROOT / "docs" / "noise.md").read_text(encoding="utf-8")
BLENDS = (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")


def t_from_the_text(seed: int, name: str, k: int) -> int:
    """Compute t of one element in plain Python integers, following only the text of docs/noise.md."""
    key = hashlib.blake2b(f"1\n{seed}\n{name}".encode(), digest_size=8).digest()
    k0, k1 = int.from_bytes(key[:4], "little"), int.from_bytes(key[4:], "little")
    c, w = divmod(k, 1024)
    j, b = divmod(w, 128)
    x = philox_from_the_text([(128 * c + b) % 2**32, (128 * c + b) // 2**32, 0, 0], k0, k1)
    i = (x[j // 2] >> (16 * (j % 2))) % 2**16
    return round(4096 * statistics.NormalDist().inv_cdf((i + 0.5) / 65536))


def philox_from_the_text(c: list[int], k0: int, k1: int) -> list[int]:
    for _ in range(10):
        p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(q >> 32) ^ c[1] ^ k0, q % 2**32, (p >> 32) ^ c[3] ^ k1, p % 2**32]
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c


def noise(seed: int, name: str, n: int) -> Array:
    """Compute z of a whole tensor, float32, by the CPU kernel: a scale of 1 on a tensor of zeros."""
    result = np.empty(n, np.float32)
    one = Term(seed, np.ones(1, np.float32), n)
    write_slab(result, np.zeros(n, np.float32), Slab.whole(n), name, [one], "float32", "float32")
    return result


def weights(rng: np.random.Generator, n: int, dtype: DType) -> Array:
    """Return weights of all magnitudes of the dtype, including signed zeros, subnormals and infinities."""
    x = rng.standard_normal(n).astype(np.float32) * np.float32(2) ** rng.integers(-8, 3, n).astype(np.float32)
    odd = rng.random(n) < 0.2
    special = [0.0, -0.0, 1e-40, -1e-40, 3e-8, 5.9e-8, 6.2e-5, 65504.0, 65519.9, -7e4, 3.4e38, np.inf, -np.inf]
    x[odd] = rng.choice(np.array(special, np.float32), int(odd.sum()))
    return reference.from_float32(x, dtype)


def assert_same_bits(actual: Array, expected: Array) -> None:
    """Assert equality bit for bit. A NaN (infinity minus infinity) must be a NaN; its payload is not defined."""
    assert actual.dtype.itemsize == expected.dtype.itemsize
    kind: DType = "float32" if actual.itemsize == 4 else "float16"
    unsigned = np.uint32 if actual.itemsize == 4 else np.uint16
    same = actual.view(unsigned) == expected.view(unsigned)
    if kind == "float32":
        same |= np.isnan(actual.view(np.float32)) & np.isnan(expected.view(np.float32))
    bad = np.flatnonzero(~same)
    assert bad.size == 0, (
        f"{bad.size} of {same.size} differ, first at {bad[:5]}: {actual[bad[:5]]} not {expected[bad[:5]]}"
    )


# Known answers


def test_philox_known_answer() -> None:
    zero = np.zeros(1, np.uint64)
    words = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert [int(w[0]) for w in reference.philox([zero] * 4, (0, 0))] == words
    assert philox_from_the_text([0] * 4, 0, 0) == words
    assert " ".join(f"{w:08x}" for w in words) in DOC
    generated = np.zeros(512, np.uint64)
    kernels.words_of(generated, 0, np.zeros(2, np.uint64), 0, 128)
    assert [int(w) & 0xFFFFFFFF for w in generated[::128]] == words


def test_the_table_matches_its_definition() -> None:
    t = table()
    assert hashlib.sha256(t.astype("<i2").tobytes()).hexdigest() == TABLE_SHA256
    assert TABLE_SHA256 in DOC
    places = (np.arange(65536) + 0.5) / 65536
    assert np.array_equal(t, np.rint(4096 * ndtri(places)))
    assert np.array_equal(t, -t[::-1])
    exact = 4096 * ndtri(places)
    assert np.abs(np.abs(exact) % 1 - 0.5).min() > 1.7e-5  # far from every tie, as docs/noise.md states
    x = t * UNIT
    assert repr(float((x**2).mean())) in DOC
    assert float(re.search(r"kurtosis ([\d.]+\d)", DOC).group(1)) == pytest.approx((x**4).mean() / (x**2).mean() ** 2)
    assert not t.flags.writeable


VECTORS = re.findall(r'^\| (-?\d+) \| "(.*)" \| (\w{8}) (\w{8}) \| (\d+) \| ([-\d ]+) \|$', DOC, re.MULTILINE)
IDS = re.findall(r"^\| `(\{.*\})` \| ([\da-f]{16}) \|$", DOC, re.MULTILINE)
SUMS = re.findall(r'^\| (\d+), (\d+) \| "(.*)" \| (\d+) \| (\d+) \| (-?\d+) \| (\d+) \|$', DOC, re.MULTILINE)
WRITTEN = re.findall(
    r"^\| (float32|bfloat16|float16) \| ([\da-f ]+) \| ([\da-f ]+) \| ([\da-f ]+) \|$", DOC, re.MULTILINE
)


def test_the_patterns_match_all_documented_vectors() -> None:
    assert (len(VECTORS), len(IDS), len(SUMS), len(WRITTEN)) == (10, 7, 2, 3)
    assert (len(TOWARDS), len(BLENDED)) == (3, 4)
    assert max(int(v[4]) for v in VECTORS) > 2**35  # where the counter's second word is used


def test_version_1_is_frozen() -> None:
    """Stored studies depend on these values: nobody may change the page's vectors and the code together."""
    assert definition.NOISE_VERSION == 1
    vectors = json.dumps([VECTORS, SUMS, WRITTEN, IDS, TABLE_SHA256], ensure_ascii=False)
    assert (
        hashlib.sha256(vectors.encode()).hexdigest()
        == "dcc37d9c77443575cff304a3a447ad9b1bab693e25f96aef298bb9c3c9efe700"
    )


@pytest.mark.parametrize(("seed", "name", "k0", "k1", "k", "values"), VECTORS)
def test_documented_z(seed: str, name: str, k0: str, k1: str, k: str, values: str) -> None:
    expected, start = [int(v) for v in values.split()], int(k)
    assert [f"{word:08x}" for word in tensor_key(int(seed), name)] == [k0, k1]
    assert [t_from_the_text(int(seed), name, start + i) for i in range(8)] == expected
    assert reference.z_int(int(seed), name, start, start + 8).tolist() == expected
    key = np.array(tensor_key(int(seed), name), np.uint64)
    for first, n in (
        (start // 1024 * 1024, 1024),
        (start, min(8, 128 - start % 128)),
    ):  # a complete chunk, and a part of it
        drawn = np.zeros(1024, np.int16)
        kernels.fill(drawn, -1, first, n, key, table(), np.zeros(512, np.uint64))
        assert drawn[start % 1024 :][:n].tolist()[:8] == expected[: min(8, n, 1024 - start % 1024)]


def test_documented_ids() -> None:
    directions = [from_json(json.loads(text)) for text, _ in IDS]
    for (text, name), direction in zip(IDS, directions, strict=True):
        assert hashlib.blake2b(text.encode(), digest_size=8).hexdigest() == direction.id == name
        if isinstance(direction, RandomDirection):
            assert dataclasses.replace(direction, exclude=direction.exclude[::-1]).id == name
    point = Point.from_coefficients((direction, 0.1) for direction in directions)
    assert [direction.id for direction, _ in point.coefficients] == sorted(name for _, name in IDS)


@pytest.mark.thorough
@pytest.mark.parametrize(("seed1", "seed2", "name", "n", "s11", "s12", "s22"), SUMS)
def test_documented_sums(seed1: str, seed2: str, name: str, n: str, s11: str, s12: str, s22: str) -> None:
    assert sums(int(seed1), name, int(n), int(seed2)) == (int(s11), int(s12), int(s22))
    assert sums(int(seed1), name, int(n)) == (int(s11), 0, 0)


@pytest.mark.parametrize(("dtype", "base", "one", "two"), WRITTEN)
def test_documented_weights(dtype: DType, base: str, one: str, two: str) -> None:
    unsigned = np.uint32 if dtype == "float32" else np.uint16
    source, *expectations = (np.array([int(v, 16) for v in text.split()], unsigned) for text in (base, one, two))
    both = [Term(seed, np.array([a], np.float32), 8) for seed, a in ((123, 0.1), (124, -0.03))]
    for used, expected in zip((both[:1], both), expectations, strict=True):
        result = np.empty(8, np.float32 if dtype == "float32" else np.uint16)
        write_slab(result, source, Slab.whole(8), "w", used, dtype, dtype)
        assert result.view(unsigned).tolist() == expected.tolist()


TOWARDS = re.findall(r"^\| (float32|bfloat16|float16) \| ([\da-f ]+) \| ([\da-f ]+) \|$", BLENDS, re.MULTILINE)
BLENDED = re.findall(
    r"^\| (\w+) \| (\w+) \| ([-.\d]+) \| ([-.\d]+) \| ([.\d]+) \| ([\da-f ]+) \|$", BLENDS, re.MULTILINE
)
A = np.array([[1, -2, 0.5, 3], [0.25, 1, -1, 0.1]], np.float32)
B = np.array([[1, 0.5], [-0.3, 2]], np.float32)
S = 0.1


def documented_base(dtype: DType) -> Array:
    """Return the base of the test vectors as the kernels take it: float32, or 16 bits as uint16."""
    text = next(base for kind, base, *_ in WRITTEN if kind == dtype)
    bits = np.array([int(v, 16) for v in text.split()], np.uint32 if dtype == "float32" else np.uint16)
    return bits.view(np.float32) if dtype == "float32" else bits


@pytest.mark.parametrize(("dtype", "between", "adapted"), TOWARDS)
def test_documented_interpolations(dtype: DType, between: str, adapted: str) -> None:
    w = documented_base(dtype)
    noise = [Term(123, np.array([0.1], np.float32), 8)]
    update = cpu.product(A, B).reshape(-1)
    for blend, terms, expected in (
        ([(0.7, w, dtype), (0.3, w[::-1].copy(), dtype)], noise, between),
        ([(1.0, w, dtype), (S, update, "float32")], [], adapted),
    ):
        result = np.empty_like(w)
        write_slab(result, w, Slab.whole(8), "w", terms, dtype, dtype, blend)
        unsigned = np.uint32 if dtype == "float32" else np.uint16
        assert result.view(unsigned).tolist() == [int(v, 16) for v in expected.split()]


def blend_from_the_text(stored: DType, c1: float, c2: float, a: float) -> np.ndarray:
    """Compute the weights before the last rounding one element at a time, following only the text of the two pages."""
    f = np.float32
    w0 = to_float32(documented_base(stored), stored)
    result = []
    for k, (w, w1) in enumerate(zip(w0, w0[::-1], strict=True)):
        b_row, a_column = B[k // 4], A[:, k % 4]
        t = f(b_row[0] * a_column[0])
        t = f(t + f(b_row[1] * a_column[1]))
        g0 = f(round(1.0 - c1, 9))
        x = f(g0 * w) if g0 else None
        for g, value in ((f(c1), w1), (f(c2 * S), t)):
            if g:
                x = f(g * value) if x is None else f(x + f(g * value))
        if a:
            x = f(x + f(f(a) * f(t_from_the_text(123, "w", k) / 4096)))
        result.append(x)
    return np.array(result, np.float32)


@pytest.mark.parametrize(("stored", "engine", "on_checkpoint", "on_adapter", "a", "weights"), BLENDED)
def test_documented_blends(
    stored: DType, engine: DType, on_checkpoint: str, on_adapter: str, a: str, weights: str
) -> None:
    c1, c2, scale = float(on_checkpoint), float(on_adapter), float(a)
    unsigned = np.uint32 if engine == "float32" else np.uint16
    expected = np.array([int(v, 16) for v in weights.split()], unsigned)
    assert_same_bits(from_float32(blend_from_the_text(stored, c1, c2, scale), engine).view(unsigned), expected)
    w = documented_base(stored)
    update = cpu.product(A, B).reshape(-1)
    blend = [(round(1 - c1, 9), w, stored), (c1, w[::-1].copy(), stored), (c2 * S, update, "float32")]
    terms = [Term(123, np.array([scale], np.float32), 8)] if scale else []
    assert_same_bits(reference.perturb(w, "w", terms, engine, stored, blend).view(unsigned), expected)
    result = np.empty(8, np.float32 if engine == "float32" else np.uint16)
    write_slab(result, w, Slab.whole(8), "w", terms, engine, stored, blend)
    assert_same_bits(result.view(unsigned), expected)


def test_the_kernel_multiplies_factors_as_the_reference_does() -> None:
    rng = np.random.default_rng(5)
    w, a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((300, 1100), (7, 1100), (300, 7)))
    expected = reference.product(a, b)
    assert cpu.product(a, b).tobytes() == expected.tobytes()
    assert cpu.product(a, b[20:30]).tobytes() == expected[20:30].tobytes()
    assert np.abs(expected - b.astype(np.float64) @ a.astype(np.float64)).max() < 1e-5
    scaled = np.float32(0.3) * expected
    assert materialize.lora_merged(w, a, b, 0.3).tobytes() == (w + scaled).tobytes()


# Rounding, against torch


def every_float16_and_ties() -> np.ndarray:
    """Return every float16, the midpoints between them, and their nearest neighbors; and the same for bfloat16."""
    half = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    mid = (half[:-1] + half[1:]) / 2
    brain = (np.arange(0x7F80, dtype=np.uint32) << 16).view(np.float32)
    tie = (np.arange(0x7F80, dtype=np.uint32) << 16 | 0x8000).view(np.float32)
    centre = np.concatenate([half, mid, brain, tie, np.array([65519.99, 65520, 65536, np.inf], np.float32)])
    near = np.concatenate([centre, np.nextafter(centre, np.float32(0)), np.nextafter(centre, np.float32(np.inf))])
    return np.concatenate([near, -near])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_matches_torch(dtype: DType) -> None:
    x = every_float16_and_ties()
    expected = torch.from_numpy(x).to(getattr(torch, dtype)).view(torch.int16).numpy().view(np.uint16)
    result = np.empty(x.size, np.uint16)
    write_slab(result, x, Slab.whole(x.size), "w", [], dtype, "float32")
    assert_same_bits(result, expected)
    assert_same_bits(reference.from_float32(x, dtype), expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_reading_matches_torch(dtype: DType) -> None:
    bits = np.arange(65536, dtype=np.uint16)
    expected = torch.from_numpy(bits.view(np.int16)).view(getattr(torch, dtype)).float().numpy()
    result = np.empty(65536, np.float32)
    write_slab(result, bits, Slab.whole(65536), "w", [], "float32", dtype)
    assert_same_bits(result, expected)
    rewritten = np.empty(65536, np.uint16)
    write_slab(rewritten, result, Slab.whole(65536), "w", [], dtype, "float32")
    nan = np.isnan(expected)
    assert np.array_equal(rewritten[~nan], bits[~nan])
    assert np.isnan(reference.to_float32(rewritten[nan], dtype)).all()


# Compare the kernel with the reference


@st.composite
def writes(draw: st.DrawFn) -> dict:
    size = st.one_of(st.integers(1, 9), st.integers(100, 1100))
    rows = draw(st.integers(1, 12))
    cols = draw(size)
    contiguous = draw(st.booleans())
    k_stride = cols if contiguous else cols + draw(st.integers(0, 1500))
    dst_stride = cols if contiguous else cols + draw(st.integers(0, 40))
    k_off = draw(st.one_of(st.just(0), st.integers(0, 3000)))
    slab = Slab(rows, cols, k_off, k_stride, draw(st.integers(0, 40)), dst_stride)
    n = k_off + (rows - 1) * k_stride + cols + draw(st.integers(0, 700))
    terms = []
    for seed in draw(st.lists(st.integers(-3, 2**65), max_size=3, unique=True)):
        row = draw(st.sampled_from([n, n, k_stride, 1, 17, 128, 1024]))
        terms.append((seed, row, draw(st.sampled_from([1.0, 0.01, 1e-30, 1e-44, 300.0]))))
    return {
        "slab": slab,
        "n": n,
        "terms": terms,
        "dtype": draw(st.sampled_from(DTYPES)),
        "base_dtype": draw(st.sampled_from(DTYPES)),
        "kinds": draw(st.tuples(st.sampled_from(DTYPES), st.sampled_from(DTYPES))),
        "blend": draw(st.one_of(st.none(), st.lists(st.sampled_from([1.0, 0.0, 0.3, -1.7]), max_size=3).filter(any))),
        "random": draw(st.integers(0, 2**32)),
    }


@settings(max_examples=400, deadline=None, derandomize=True)
@given(writes())
def test_the_kernel_matches_the_reference_bit_for_bit(case: dict) -> None:
    rng = np.random.default_rng(case["random"])
    slab, n, dtype, base_dtype = case["slab"], case["n"], case["dtype"], case["base_dtype"]
    base = weights(rng, n, base_dtype)
    base.flags.writeable = False  # read-only, like a mapped file
    kinds = [base_dtype, *case["kinds"]]
    blend = [(c, weights(rng, n, kind), kind) for c, kind in zip(case["blend"] or [], kinds, strict=False)] or None
    terms = []
    for seed, row, size in case["terms"]:
        scale = (rng.standard_normal(-(-n // row)) * size).astype(np.float32)
        scale[rng.random(scale.size) < 0.1] = 0
        terms.append(Term(seed, scale, row))
    length = slab.dst_off + (slab.rows - 1) * slab.dst_stride + slab.cols + 5
    untouched = rng.integers(0, 2**16, length).astype(np.float32 if dtype == "float32" else np.uint16)
    dst = untouched.copy()
    write_slab(dst, base, slab, "some.weight", terms, dtype, base_dtype, blend)
    perturbed = reference.perturb(base, "some.weight", terms, dtype, base_dtype, blend)
    expected = untouched.copy()
    for r in range(slab.rows):
        k, d = slab.k_off + r * slab.k_stride, slab.dst_off + r * slab.dst_stride
        expected[d : d + slab.cols] = perturbed[k : k + slab.cols]
    assert_same_bits(dst, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("base_dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 2])
def test_results_depend_on_neither_pieces_nor_threads(dtype: DType, base_dtype: DType, count: int) -> None:
    n = 5 * kernels.PIECE + 777
    base = weights(np.random.default_rng(0), n, base_dtype)
    rows = np.linspace(-1, 1, n // 999 + 1, dtype=np.float32)
    rows[3:40] = 0
    terms = [Term(2, rows, 999), Term(1, np.array([0.01], np.float32), n)][:count]
    expected = reference.perturb(base, "w", terms, dtype, base_dtype)

    def write_part(slab: Slab) -> None:
        write_slab(result, base, slab, "w", terms, dtype, base_dtype)

    before = numba.get_num_threads()
    try:
        for threads in {1, before}:
            numba.set_num_threads(threads)
            result = np.zeros_like(expected)
            write_part(Slab.whole(n))
            assert_same_bits(result, expected)
            result = np.zeros_like(expected)
            cpu.spread(Slab.whole(n).parts(10_007), write_part)
            assert_same_bits(result, expected)
            # in two halves, the second one a column shard, as in tensor parallelism
            result = np.zeros_like(expected)
            length, cols = n // 1000, 1000
            for first, width in ((0, 333), (333, 667)):
                cpu.spread(Slab(length, width, first, cols, first, cols).parts(5_000), write_part)
            assert_same_bits(result[: length * cols], expected[: length * cols])
    finally:
        numba.set_num_threads(before)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 9), st.integers(1, 60))
def test_parts_cover_a_slab_exactly_once(rows: int, cols: int, extra_cols: int, limit: int) -> None:
    slab = Slab(rows, cols, 7, cols + extra_cols, 3, cols + 2)
    parts = list(slab.parts(limit))
    assert all(1 <= part.rows * part.cols <= limit for part in parts)

    def places(slab: Slab) -> list[tuple[int, int]]:
        return [
            (slab.k_off + r * slab.k_stride + c, slab.dst_off + r * slab.dst_stride + c)
            for r in range(slab.rows)
            for c in range(slab.cols)
        ]

    assert sorted(place for part in parts for place in places(part)) == places(slab)


def test_every_job_is_done_once_and_an_error_is_raised() -> None:
    processed: list[int] = []
    cpu.spread(iter(range(1000)), processed.append)
    assert sorted(processed) == list(range(1000))

    started: list[int] = []

    def refuse(job: int) -> None:
        assert numba.get_num_threads() == 1
        started.append(job)
        if job == 5:
            raise OSError("job 5")

    with pytest.raises(OSError, match="job 5"):
        cpu.spread(range(100_000), refuse)
    assert len(started) < 100_000, "jobs were started after the error"

    def broken() -> Iterator[int]:
        yield 1
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        cpu.spread(broken(), processed.append)


def test_tensors_beyond_two_to_the_32_elements(tmp_path: Path) -> None:
    """A tensor of 4.3e9 elements (a sparse file): indices and samples stay right beyond 32 bits."""
    start, n = 2**32 - 1500, 3000
    base = np.memmap(tmp_path / "w", np.uint16, "w+", shape=(2**32 + 2000,))
    base[start : start + n] = weights(np.random.default_rng(1), n, "bfloat16")
    terms = [Term(s, np.linspace(0.1, 2, 2**32 // 2**20 + 1, dtype=np.float32), 2**20) for s in (5, 6)]
    result = np.empty(n, np.uint16)
    write_slab(result, base, Slab(3, 1000, start, 1000, 0, 1000), "w", terms, "bfloat16", "bfloat16")
    window = np.array(base[start : start + n])
    assert_same_bits(result, reference.perturb(window, "w", terms, "bfloat16", "bfloat16", start=start))


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_terms_the_base_is_reproduced_bit_for_bit(dtype: DType) -> None:
    bits = np.random.default_rng(2).integers(0, 2**32 if dtype == "float32" else 2**16, 5000)
    base = bits.astype(np.uint32 if dtype == "float32" else np.uint16)  # arbitrary bits, including NaN payloads
    other = base[::-1].copy()
    zero = [Term(1, np.zeros(1, np.float32), 5000)]
    for terms, blend, expected in (
        ([], None, base),
        (zero, None, base),
        ([], [(0.0, base), (1.0, other)], other),
    ):
        result = np.empty_like(base)
        source = base.view(np.float32) if dtype == "float32" else base
        sources = [(c, a.view(np.float32) if dtype == "float32" else a, dtype) for c, a in blend or ()] or None
        target = result.view(np.float32) if dtype == "float32" else result
        write_slab(target, source, Slab.whole(5000), "w", terms, dtype, dtype, sources)
        assert np.array_equal(result, expected)


def test_a_sequence_of_writes_leaves_no_trace() -> None:
    n = 3000
    base = weights(np.random.default_rng(3), n, "bfloat16")
    result, fresh = np.empty_like(base), np.empty_like(base)
    for alpha in (0.5, -0.1, 0.25):
        terms = [Term(1, np.array([alpha], np.float32), n)]
        write_slab(result, base, Slab.whole(n), "w", terms, "bfloat16", "bfloat16")
    write_slab(fresh, base, Slab.whole(n), "w", terms, "bfloat16", "bfloat16")
    assert np.array_equal(result, fresh) and not np.array_equal(result, base)
    write_slab(result, base, Slab.whole(n), "w", [], "bfloat16", "bfloat16")
    assert np.array_equal(result, base)


def test_a_slab_beyond_its_array_is_refused() -> None:
    base, result = np.zeros(10, np.float32), np.zeros(10, np.float32)
    for slab in (Slab(1, 11, 0, 11, 0, 11), Slab(2, 5, 1, 5, 0, 5), Slab(2, 5, 0, 5, 1, 5), Slab(1, 3, -1, 3, 0, 3)):
        with pytest.raises(AssertionError):
            write_slab(result, base, slab, "w", [], "float32", "float32")


# Sums


@settings(max_examples=60, deadline=None, derandomize=True)
@given(rows=st.integers(1, 9), size=st.sampled_from([1, 2, 127, 600, 1024, 1025, 9000]), seed=st.integers(0, 2**40))
def test_sums_are_exact(rows: int, size: int, seed: int) -> None:
    a, b = (reference.z_int(s, "w", 0, rows * size).astype(np.int64).reshape(rows, size) for s in (seed, seed + 1))
    expected = np.stack([(a * a).sum(1), (a * b).sum(1), (b * b).sum(1)], axis=1)
    assert np.array_equal(row_sums(seed, "w", rows, size, seed + 1), expected)
    assert np.array_equal(row_sums(seed, "w", rows, size)[:, 0], expected[:, 0])
    assert sums(seed, "w", rows * size, seed + 1) == tuple(int(v) for v in expected.sum(0))


@pytest.mark.thorough
def test_sums_of_long_rows_are_exact_on_any_number_of_threads() -> None:
    rows, size = 3, 2 * kernels.TASK + 5
    a, b = (reference.z_int(s, "w", 0, rows * size).astype(np.int64).reshape(rows, size) for s in (1, 2))
    expected = np.stack([(a * a).sum(1), (a * b).sum(1), (b * b).sum(1)], axis=1)
    x = weights(np.random.default_rng(4), rows * size, "float16")
    x[~np.isfinite(x.view(np.float16))] = 0
    exact = [sum(int(v) ** 2 for v in row) for row in (x.view(np.float16).astype(np.float64) * 2**24).reshape(rows, -1)]
    before = numba.get_num_threads()
    try:
        results = []
        for threads in {1, before}:
            numba.set_num_threads(threads)
            assert np.array_equal(row_sums(1, "w", rows, size, 2), expected)
            results.append(square_sums(x, "float16", rows))
    finally:
        numba.set_num_threads(before)
    assert all(np.array_equal(r, results[0]) for r in results)
    assert results[0] == pytest.approx([e / 2**48 for e in exact], rel=1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
def test_squares_are_summed_in_the_documented_order(dtype: DType) -> None:
    """A plain float64 loop over blocks of 65,536 with sixteen running sums gives the same last bit."""
    rng = np.random.default_rng(5)
    # many, because a wrong order gives the right last bit half of the time
    for n in [*range(1, 40), 1023, 1031, 3000, 65_537, 131_072, 150_000, 196_609, 200_001, 262_145]:
        values = rng.standard_normal(n) * 10.0 ** rng.integers(-4, 4, n)
        x = reference.from_float32(values.astype(np.float32), dtype)
        elements, blocks = reference.to_float32(x, dtype).tolist(), []
        for start in range(0, n, 65_536):
            lanes = [0.0] * 16
            for i, value in enumerate(elements[start : start + 65_536]):
                lanes[i % 16] += value * value
            total = 0.0
            for lane in lanes:
                total += lane
            blocks.append(total)
        assert square_sums(x, dtype).tolist() == [math.fsum(blocks)], n


# Statistics of z, on 10^7 samples; bounds are five standard errors of the estimate


N = 10_000_000


@pytest.fixture(scope="module")
def sample() -> Array:
    return noise(123, "model.embed_tokens.weight", N)


@pytest.mark.thorough
def test_moments_match_the_table(sample: Array) -> None:
    x, t = sample.astype(np.float64), table() * UNIT
    for power in (1, 2, 3, 4):
        spread = np.sqrt((t ** (2 * power)).mean() - (t**power).mean() ** 2)
        assert abs((x**power).mean() - (t**power).mean()) < 5 * spread / np.sqrt(N), power


def test_the_distribution_matches_the_table(sample: Array) -> None:
    """The Kolmogorov-Smirnov distance to the table's distribution exceeds 2.2 / sqrt(n) once in 8,000 cases."""
    values, counts = np.unique(table(), return_counts=True)
    drawn = np.bincount((sample * 4096).astype(np.int64) + 32768, minlength=65536)[values.astype(np.int64) + 32768]
    assert drawn.sum() == N
    assert np.abs(drawn.cumsum() / N - counts.cumsum() / 65536).max() < 2.2 / np.sqrt(N)


@pytest.mark.slow
def test_ten_times_as_many_samples_match_the_table() -> None:
    """Count 10^8 samples by value; the bounds on moments and distribution are a third as wide."""
    values, counts = np.unique(table(), return_counts=True)
    drawn = np.zeros(65536, np.int64)
    for part in range(10):
        drawn += np.bincount((noise(123, f"part {part}", N) * 4096).astype(np.int64) + 32768, minlength=65536)
    counted = drawn[values.astype(np.int64) + 32768]
    assert counted.sum() == drawn.sum() == 10 * N
    assert np.abs(counted.cumsum() / (10 * N) - counts.cumsum() / 65536).max() < 2.2 / np.sqrt(10 * N)
    t = values.astype(np.float64) * UNIT
    for power in (1, 2, 3, 4):
        mean = (counts * t**power).sum() / 65536
        spread = np.sqrt((counts * t ** (2 * power)).sum() / 65536 - mean**2)
        assert abs((counted * t**power).sum() / (10 * N) - mean) < 5 * spread / np.sqrt(10 * N), power


def correlation(a: Array, b: Array) -> float:
    """Return the correlation in standard errors."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    return float(np.corrcoef(x, y)[0, 1] * np.sqrt(len(x)))


@pytest.mark.parametrize("lag", [1, 2, 8, 64, 127, 128, 129, 512, 896, 1023, 1024, 1025, 65536, 131072])
def test_no_autocorrelation_at_any_lag(sample: Array, lag: int) -> None:
    n = 4_000_000
    assert abs(correlation(sample[:n], sample[lag : lag + n])) < 5
    assert abs(correlation(sample[:n] ** 2, sample[lag : lag + n] ** 2)) < 5


@pytest.mark.parametrize(
    ("seed", "name"),
    [
        (124, "model.embed_tokens.weight"),
        (122, "model.embed_tokens.weight"),
        (123 + 2**32, "model.embed_tokens.weight"),
        (-123, "model.embed_tokens.weight"),
        (123, "lm_head.weight"),
        (123, "model.embed_tokens.weighs"),
        (12, "3model.embed_tokens.weight"),
    ],
)
def test_no_correlation_across_seeds_and_names(sample: Array, seed: int, name: str) -> None:
    """Tensors of equal shape get different noise, and so do neighboring seeds."""
    n = 4_000_000
    assert abs(correlation(sample[:n], noise(seed, name, n))) < 5


# No fused multiply-add


COMPILE = """
import numba, numpy as np
from workers.noise.definition import Slab, Term
from workers.noise.cpu import product, write_slab
terms = [Term(s, np.ones(1, np.float32), 8) for s in (1, 2)]
x = np.ones(8, np.float32)
write_slab(x.copy(), x, Slab.whole(8), "w", terms, "float32", "float32", [(0.5, x, "float32"), (0.25, x, "float32")])
product(np.ones((2, 8), np.float32), np.ones((8, 2), np.float32))
print("CONTROL", flush=True)
@numba.njit(fastmath=True)
def fused(x, a, y):
    for i in range(len(x)):
        x[i] += a * y[i]
fused(x, x[0], x)
"""

FUSED = re.compile(r"\b(vfn?m(?:add|sub)\w*|fn?m(?:add|sub|la|ls)\w*)\b")


@pytest.mark.thorough
@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="knows the instructions of these two only")
def test_compiled_kernel_has_no_fused_multiply_add(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_DUMP_ASSEMBLY": "1", "PYTHONPATH": str(ROOT)}
    completed = subprocess.run(
        [sys.executable, "-c", COMPILE],
        check=False,
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert completed.returncode == 0, completed.stderr
    kernel, control = completed.stdout.split("CONTROL\n")
    if not FUSED.search(control):
        pytest.skip("this processor has no fused multiply-add")
    assert all(name in kernel for name in ("_add_noise", "_cast_moved", "product")), (
        "the kernel's assembly was not dumped"
    )
    assert re.search(r"\b(v?mulps|fmul)\b", kernel), "the kernel's assembly was not dumped"
    assert not FUSED.findall(kernel)
