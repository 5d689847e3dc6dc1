"""Tests on a real GPU, which scripts/gpu_check.sh runs: weights in vLLM with each placement of the base, to the bit.

Stage 1 of that script checks the kernel by itself. GPU_CHECK_DEVICE=cpu rehearses this file on a CPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.sweep.directions.random import RandomDirection
from orchestrator.sweep.points import ORIGIN, Point
from orchestrator.utils.choices import Norm
from workers.engines.base import EngineSpec
from workers.engines.factory import open_engine
from workers.noise import reference
from workers.weights.checkpoint import MappedCheckpoint
from workers.weights.perturbation import terms

DEVICE = os.environ.get("GPU_CHECK_DEVICE", "cuda")
ON_GPU = DEVICE == "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(ON_GPU and not torch.cuda.is_available(), reason="this machine has no CUDA GPU"),
]

LINE, ACROSS = RandomDirection(11), RandomDirection(12, orthogonal_to=11)
ROWS = RandomDirection(13, Norm.filter)
POINTS = (
    Point.from_coefficients([(LINE, 0.3)]),
    Point.from_coefficients([(LINE, -0.2), (ACROSS, 0.1)]),
    Point.from_coefficients([(ROWS, 0.2)]),
    ORIGIN,
)


@pytest.fixture(scope="module")
def folders(make_tiny: Callable[..., Path]) -> dict[str, Path]:
    sizes = {"hidden_size": 256, "head_dim": 64}
    return {family: make_tiny(family, dtype="bfloat16", **sizes) for family in ("llama", "mixtral")}


def spec(folder: Path, **settings: Any) -> EngineSpec:
    memory = {} if ON_GPU else {"kv_cache_gib": 0.25}
    kind = "cuda" if ON_GPU else "cpu"
    given = {"max_model_len": 128, "max_num_seqs": 8, "dtype": "bfloat16", "device": kind, **memory, **settings}
    return EngineSpec(model_dir=str(folder), **given)


@pytest.mark.parametrize(
    ("family", "base", "eager"),
    [
        ("llama", "gpu", False),
        ("llama", "host", False),
        ("llama", "mmap", False),
        ("llama", "gpu", True),
        ("mixtral", "gpu", False),
        ("mixtral", "host", True),
    ],
)
def test_weights_in_vllm_equal_the_reference_at_each_point(
    folders: dict[str, Path], family: str, base: str, eager: bool
) -> None:
    if not ON_GPU and (base == "gpu" or not eager):
        pytest.skip("needs a GPU")
    checkpoint = MappedCheckpoint(folders[family])
    engine = open_engine(spec(folders[family], base=base, eager=eager))
    try:
        engine.verify_writes()
        scalars = {d.id: engine.measure(d) for d in (LINE, ACROSS, ROWS)}
        for point in POINTS:
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


def test_three_starts_have_the_same_kv_cache(
    folders: dict[str, Path], record_property: Callable[[str, object], None]
) -> None:
    """The identity of an actor depends on nothing that is measured on its card."""
    identities, blocks = [], []
    for _ in range(3 if ON_GPU else 1):
        engine: Any = open_engine(spec(folders["llama"]))
        try:
            identities.append(engine.identity)
            blocks.append(engine._llm.llm_engine.vllm_config.cache_config.num_gpu_blocks)
        finally:
            engine.close()
    record_property("blocks", blocks)
    assert len(set(blocks)) == 1
    assert all(identity == identities[0] for identity in identities)


@pytest.mark.skipif(not ON_GPU, reason="stage 1 runs in Triton's interpreter in tests/unit/scripts")
def test_the_kernel_equals_the_reference_to_the_bit() -> None:
    from scripts.gpu_check import kernel

    found = kernel.check_bits(torch.device("cuda"), small=False)
    assert found.wrong == [] and found.done > 50
