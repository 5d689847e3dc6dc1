"""Test on a real GPU: the noise kernel, and the weights in vLLM with every placement of the base, to the bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.sweep.directions.random import RandomDirection
from orchestrator.sweep.points import ORIGIN, Point
from workers.engines.base import EngineSpec
from workers.engines.factory import open_engine
from workers.noise import reference
from workers.noise.definition import DTYPES, DType, Slab, Term
from workers.weights.checkpoint import MappedCheckpoint
from workers.weights.device_memory import TORCH_DTYPES
from workers.weights.perturbation import terms

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA GPU"),
]

LINE, ACROSS = RandomDirection(11), RandomDirection(12, orthogonal_to=11)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_terms", [0, 1, 2])
def test_the_kernel_equals_the_reference_to_the_bit(dtype: DType, n_terms: int) -> None:
    from workers.noise import gpu

    n = 300_001
    weights = reference.from_float32(np.random.default_rng(0).standard_normal(n).astype(np.float32), dtype)
    terms = [Term(seed, np.array([0.1 * (seed + 1)], np.float32), n) for seed in range(n_terms)]
    source = (
        torch.from_numpy(weights if dtype == "float32" else weights.view(np.int16)).view(TORCH_DTYPES[dtype]).cuda()
    )
    target = torch.empty_like(source)
    gpu.write_slab(target, source, Slab.whole(n), "w", terms)
    actual = target.view(torch.int32 if dtype == "float32" else torch.int16).cpu().numpy()
    assert np.array_equal(actual, reference.perturb(weights, "w", terms, dtype, dtype).view(actual.dtype))


def test_offsets_beyond_32_bits() -> None:
    """Write the end of a tensor of 4.3e9 elements, where offsets exceed 32 bits."""
    from workers.noise import gpu

    start = 2**32 - 3000
    scale = Term(5, np.array([0.5], np.float32), start + 6000)
    target, source = torch.zeros(6000, device="cuda"), torch.ones(6000, device="cuda")
    gpu.write_slab(target, source, Slab(1, 6000, start, 6000, 0, 6000), "w", [scale], None, (0, 6000))
    expected = reference.perturb(np.ones(6000, np.float32), "w", [scale], "float32", "float32", start=start)
    assert np.array_equal(target.cpu().numpy().view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("base", ["gpu", "host", "mmap"])
@pytest.mark.parametrize("eager", [True, False])
def test_weights_in_vllm_equal_the_reference_at_each_point(
    make_tiny: Callable[..., Path], base: str, eager: bool
) -> None:
    folder = make_tiny("llama", dtype="bfloat16", hidden_size=256, head_dim=64)
    checkpoint = MappedCheckpoint(folder)
    spec = EngineSpec(model_dir=str(folder), dtype="bfloat16", device="cuda", max_model_len=128, max_num_seqs=8)
    engine = open_engine(dataclasses.replace(spec, base=base, eager=eager, kv_cache_gib=0.25))  # type: ignore[arg-type]
    try:
        engine.verify_writes()
        scalars = {d.id: engine.measure(d) for d in (LINE, ACROSS)}
        for point in (
            Point.from_coefficients([(LINE, 0.3)]),
            Point.from_coefficients([(LINE, -0.2), (ACROSS, 0.1)]),
            ORIGIN,
        ):
            engine.apply_point(point, scalars)
            for info in checkpoint.tensors():
                added = terms(point, info.name, info.shape, scalars)
                base_bits = checkpoint.base(info.name)
                expected = reference.perturb(base_bits, info.name, added, "bfloat16", info.dtype).view(np.uint16)
                for piece in engine.read(info.name):
                    slab = piece.slab
                    k = slab.k_off + np.arange(slab.rows)[:, None] * slab.k_stride + np.arange(slab.cols)
                    assert np.array_equal(expected[k], piece.values), info.name
    finally:
        engine.close()
