"""The GPU kernel without a GPU: run in Triton's interpreter, and compiled for a GPU to inspect the code.

Runs in subprocesses, because Triton reads TRITON_INTERPRET when it is imported.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).parents[3]

INTERPRETED = """
import itertools, json
import numpy as np, torch
from workers.noise import cpu, gpu, reference
from workers.noise.definition import Slab, Term

rng = np.random.default_rng(0)

def weights(n, dtype):
    x = (rng.standard_normal(n) * 0.05).astype(np.float32)
    odd = rng.random(n) < 0.2
    x[odd] = rng.choice(np.array([0.0, -0.0, 1e-40, 5.9e-8, 6e-5, 65504, 3e38, np.inf], np.float32), int(odd.sum()))
    ties = rng.random(n) < 0.2  # for bfloat16
    x.view(np.uint32)[ties] = x.view(np.uint32)[ties] & 0xFFFF0000 | 0x8000
    return reference.from_float32(x, dtype)

def as_torch(bits, dtype):
    return torch.from_numpy(bits if dtype == "float32" else bits.view(np.int16)).view(getattr(torch, dtype))

def bits(tensor):
    return tensor.view(torch.int32 if tensor.dtype == torch.float32 else torch.int16).numpy()

def scale(n, row):
    s = rng.standard_normal(-(-n // row)).astype(np.float32)
    s[rng.random(s.size) < 0.1] = 0
    return s

n = 2900
slabs = {
    "whole": Slab.whole(n),
    "middle": Slab(1, 1500, 700, 1500, 3, 1500),
    "shard": Slab(9, 100, 220, 300, 5, 101),
    "narrow": Slab(40, 3, 5, 64, 0, 3),
    "wide": Slab(2, 1200, 17, 1600, 0, 1200),
    "column": Slab(50, 1, 0, 1, 2, 7),
}
plans = {
    "none": [],
    "one": [(3, n)],
    "two": [(3, n), (4, n)],
    "rows": [(3, 64), (4, 1)],
    "mixed": [(3, n), (2**40, 300)],
}
products = []
for rank in (1, 3, 16):
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((rank, 48), (40, rank)))
    on_gpu = gpu.product(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    differ = (on_gpu.view(np.int32) != cpu.product(a, b).view(np.int32)).sum()
    differ += (on_gpu.view(np.int32) != reference.product(a, b).view(np.int32)).sum()
    products.append(["product", rank, int(differ)])

# Far out, counters have a high word and offsets exceed 32 bits. With `place` only the slab is in memory.
far_cases = []
far = {2**32 - 1500: Slab(1, 2900, 2**32 - 1500, 2900, 0, 2900), 2**39: Slab(1, 2900, 2**39 - 700, 2900, 0, 2900),
       2**42: Slab(1, 2900, 2**42 + 1, 2900, 0, 2900), "strided": Slab(6, 300, 2**33 + 77, 700, 3, 310)}
for (start, slab), row in itertools.product(far.items(), (None, 2**27)):
    terms = [Term(seed, scale(slab.k_off + 2**20, row or 2**43), row or 2**43) for seed in (5, 6)]
    base, result = weights(slab.rows * slab.cols, "bfloat16"), torch.full((slab.rows * slab.dst_stride + 3,), 7.0)
    expected = result.numpy().copy()
    gpu.write_slab(result, as_torch(base, "bfloat16"), slab, "w", terms, None, (0, slab.cols))
    for r in range(slab.rows):
        part, d = base[r * slab.cols :][: slab.cols], slab.dst_off + r * slab.dst_stride
        expected[d : d + slab.cols] = reference.perturb(
            part, "w", terms, "float32", "bfloat16", start=slab.k_off + r * slab.k_stride)
    differ = (bits(result) != expected.view(np.int32)) & ~(np.isnan(expected) & torch.isnan(result).numpy())
    far_cases.append(["far", start, row, int(differ.sum())])

cases = [("whole", p, d, d, None) for p in plans for d in ("float32", "bfloat16", "float16")]
cases += [(s, p, "bfloat16", "bfloat16", None) for s, p in itertools.product(list(slabs)[1:], ("none", "two", "mixed"))]
pairs = itertools.permutations(("float32", "bfloat16", "float16"), 2)
cases += [("middle", p, d, b, None) for (d, b), p in itertools.product(pairs, ("none", "one"))]
cases += [("shard", "one", "float16", "bfloat16", c) for c in ([0.0, 1.0], [0.5, 0.5], [0.3, 1.7, -1.0])]
cases += [("whole", "none", "float32", "bfloat16", [0.0, 1.0])]
for s, p, dtype, base_dtype, coefficients in cases:
    slab = slabs[s]
    base = weights(n, base_dtype)
    kinds = (base_dtype, "float32", "bfloat16")
    blend = None if coefficients is None else [(c, weights(n, kind), kind) for c, kind in zip(coefficients, kinds)]
    terms = [Term(seed, scale(n, row), row) for seed, row in plans[p]]
    length = slab.dst_off + (slab.rows - 1) * slab.dst_stride + slab.cols + 4
    dst = torch.full((length,), 7.0, dtype=getattr(torch, dtype))
    expected = bits(dst.clone())
    sources = None if blend is None else [(c, as_torch(a, kind)) for c, a, kind in blend]
    gpu.write_slab(dst, as_torch(base, base_dtype), slab, "w", terms, sources)
    compact, other = torch.full_like(dst, 7.0), lambda a: a.as_strided(
        (slab.rows, slab.cols), (slab.k_stride, 1), slab.k_off).clone().flatten()
    gpu.write_slab(compact, other(as_torch(base, base_dtype)), slab, "w", terms,
                   None if blend is None else [(c, other(a)) for c, a in sources], (0, slab.cols))
    perturbed = reference.perturb(base, "w", terms, dtype, base_dtype, blend).view(expected.dtype)
    for r in range(slab.rows):
        k, d = slab.k_off + r * slab.k_stride, slab.dst_off + r * slab.dst_stride
        expected[d : d + slab.cols] = perturbed[k : k + slab.cols]
    both_nan = torch.isnan(dst).numpy() & torch.isnan(torch.from_numpy(expected).view(dst.dtype)).numpy()
    wrong = int(((bits(dst) != expected) & ~both_nan).sum())
    wrong += int((bits(compact) != bits(dst)).sum())
    print(json.dumps([s, p, dtype, base_dtype, coefficients, wrong]))
for case in products:
    print(json.dumps(case))
for case in far_cases:
    print(json.dumps(case))
"""

COMPILED = """
import json, os, subprocess, sys
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from workers.noise import gpu

B, F, H = torch.bfloat16, torch.float32, torch.float16
one = gpu.Form(B, (B,), True, 1, 0, True)
most = gpu.Form(B, (B, F, H), False, 2, 2, False)
cases = [(one, arch, False) for arch in (80, 90, 100, 120)]
cases += [(gpu.Form(F, (F,), True, 1, 0, True), 90, False), (gpu.Form(H, (B,), True, 2, 0, True), 90, False)]
cases += [(most, 80, False), (most, 90, False), (most, 120, False), (most, 90, True)]
disassembler = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", "nvdisasm")
for form, arch, fused in cases:
    signature = {"records": "*i64", "quantiles": "*i16"} | dict.fromkeys(form.constants(), "constexpr")
    aligned = {(i,): [["tt.divisibility", 16]] for i in range(2)}  # as memory that torch allocates
    source = ASTSource(gpu.write_kernel, signature, form.constants(), aligned)
    options = gpu.OPTIONS | {"enable_fp_fusion": fused}
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    with open("kernel.cubin", "wb") as file:
        file.write(compiled.asm["cubin"])
    sass = subprocess.run([disassembler, "-c", "kernel.cubin"], capture_output=True, text=True, check=True).stdout
    print(json.dumps([repr(form), arch, fused, form == one, compiled.asm["ptx"], sass]))
"""


def run_script(script: str, tmp_path: Path, **environment: str) -> list[list]:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(tmp_path), **environment}
    # Triton reads a kernel's source from a file; an empty cache prevents results of other options
    completed = subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        env=variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert completed.returncode == 0, completed.stderr[-3000:]
    return [json.loads(line) for line in completed.stdout.splitlines()]


@pytest.mark.thorough
def test_interpreted_kernel_matches_the_reference_bit_for_bit(tmp_path: Path) -> None:
    results = run_script(INTERPRETED, tmp_path, TRITON_INTERPRET="1")
    assert len(results) == 49 + 8
    assert [case for case in results if case[-1] != 0] == []


def instructions(sass: str) -> tuple[list[str], dict[str, int]]:
    """Return the machine's instructions of a kernel, and the position to which each label points."""
    found: list[str] = []
    labels: dict[str, int] = {}
    for line in sass.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(found)
        elif instruction := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", line):
            found.append(instruction[1])
    return found, labels


def per_element(sass: str) -> float:
    """Return the number of instructions that a thread executes for each element that it writes.

    The kernel is one loop over a program's 4 chunks, of which a thread writes 8 elements each. Instructions in the loop
    count 4 times, those before and after it once, up to the last exit. Other branches may only leave the kernel.
    """
    found, labels = instructions(sass)
    last = max(i for i, text in enumerate(found) if "EXIT" in text)
    jumps = [(i, labels[target]) for i, text in enumerate(found[:last]) for target in re.findall(r"\.L_x_\d+", text)]
    loops = [(target, i) for i, target in jumps if target <= i]
    assert len(loops) == 1 and all(target > loops[0][1] for i, target in jumps if target > i), jumps
    body = loops[0][1] - loops[0][0] + 1
    return (last + 1 - body + 4 * body) / (4 * 8)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[list]:
    pytest.importorskip("triton.backends.nvidia")
    return run_script(COMPILED, tmp_path_factory.mktemp("compiled"), TRITON_INTERPRET="0")


@pytest.mark.thorough
def test_compiled_kernel_has_no_fused_multiply_add(compiled: list[list]) -> None:
    """Products and sums are rounded separately, and subnormals are kept, in PTX and in the machine's code.

    With fusion switched on, the test detects it.
    """
    assert sum(fused for _, _, fused, _, _, _ in compiled) == 1 and len(compiled) == 10
    for form, arch, fused, _, ptx, sass in compiled:
        case = form, arch
        assert bool(re.search(r"\bfma\.", ptx)) == fused, case
        assert bool(re.search(r"\bFFMA", sass)) == fused, case
        assert not re.search(r"\.ftz\b", ptx), case
        # dividing 64-bit integers converts an integer with .FTZ, which has no subnormals to flush
        flushed = [text for text in instructions(sass)[0] if "FTZ" in text and not re.search(r"\bU?F2I", text)]
        assert not flushed, case
        if not fused:
            arithmetic = set(re.findall(r"\b(?:mul|add|sub)\.[\w.]*f32\b", ptx))
            assert arithmetic == {"mul.rn.f32", "add.rn.f32"}, case  # .rn: ptxas may not fuse these either


@pytest.mark.thorough
def test_one_term_takes_at_most_40_instructions_per_element(compiled: list[list]) -> None:
    counts = {arch: per_element(sass) for _, arch, _, is_counted, _, sass in compiled if is_counted}
    assert sorted(counts) == [80, 90, 100, 120]
    assert max(counts.values()) <= 40, counts
    assert min(counts.values()) >= 20, f"ten rounds of Philox alone take 5 per element: {counts}"
