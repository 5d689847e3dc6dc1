"""Spectral norms of an adapter and of random directions of the same length in each matrix; writes RESULTS.md.

    python -m benchmarks.spectra MODEL ADAPTER

MODEL is the folder of the base model and ADAPTER that of a LoRA adapter.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.results import machine, section, table
from orchestrator.sweep.directions.shuffled import ShuffledDirection
from workers.noise.reference import z_int
from workers.weights.checkpoint import MappedCheckpoint
from workers.weights.targets import Factors, read_adapter

SEED = 123
NAMES = ("the adapter", "`matched`: noise", "factors drawn anew", "`shuffled`: factors shuffled")

Matrix = npt.NDArray[np.float64]


def updates(name: str, factors: Factors, rng: np.random.Generator) -> list[Matrix]:
    """Return the adapter's update of one matrix and three random ones of equal length, in the order of NAMES."""
    update = factors.scale * factors.b.astype(np.float64) @ factors.a
    noise = z_int(SEED, name, 0, update.size).reshape(update.shape).astype(np.float64)
    redrawn = rng.standard_normal(factors.b.shape) @ rng.standard_normal(factors.a.shape)
    a, b = ShuffledDirection(SEED, "").rearrange(name, factors.a, factors.b)
    shuffled = factors.scale * b.astype(np.float64) @ a
    length = np.linalg.norm(update)
    return [update, *(other * (length / np.linalg.norm(other)) for other in (noise, redrawn)), shuffled]


def spectral_norm(matrix: Matrix) -> float:
    """Return the largest singular value."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    return float(np.sqrt(np.linalg.eigvalsh(wide @ wide.T)[-1]))


def main(model: str, adapter: str) -> None:
    """Measure every matrix that the adapter moves, and write the section `spectra`."""
    heading, rng = machine(), np.random.default_rng(SEED)
    factors = read_adapter(Path(adapter), MappedCheckpoint(Path(model)))
    spectral = np.empty((len(factors), len(NAMES)))
    lengths = np.empty(len(factors))
    for i, (name, pair) in enumerate(sorted(factors.items())):
        matrices = updates(name, pair, rng)
        spectral[i] = [spectral_norm(matrix) for matrix in matrices]
        lengths[i] = np.linalg.norm(matrices[0])
    shares, ratios = spectral / lengths[:, None], spectral[:, :1] / spectral
    rows = []
    for k, name in enumerate(NAMES):
        share = f"{shares[:, k].mean():.3f} ({shares[:, k].min():.3f} to {shares[:, k].max():.3f})"
        ratio = f"{ratios[:, k].mean():.2f} ({ratios[:, k].min():.2f} to {ratios[:, k].max():.2f})"
        rows.append([name, share, ratio])
    rank = next(iter(factors.values())).a.shape[0]
    head = ["direction", "spectral norm / Frobenius norm", "the adapter's spectral norm / this one's"]
    text = f"""## Spectral norms of an adapter and of its controls

`python -m benchmarks.spectra`, {heading}.

{len(factors)} matrices of an adapter of rank {rank}. In each matrix, every direction has the adapter's Frobenius norm.
Means over the matrices, with the smallest and the largest value.

{table(head, rows)}
"""
    section("spectra", text)
    print(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
