"""The GPUs that a plan can be made for, with the figures of their vendors' datasheets."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.utils.errors import UserError, did_you_mean

GB = 10**9


@dataclass(frozen=True)
class GpuModel:
    """A GPU according to its vendor's datasheet.

    Attributes:
        name: Name shown to users.
        memory: Bytes of memory.
        bandwidth: Bytes of memory per second.
        flops16: Dense operations per second in bfloat16 or float16 with float32 accumulation, without sparsity.
        flops32: Operations per second in float32, without TF32.
        bfloat16: Whether the GPU computes in bfloat16.
    """

    name: str
    memory: int
    bandwidth: float
    flops16: float
    flops32: float
    bfloat16: bool = True


# Sources. NVIDIA's datasheets: HGX B200; H200, H100 SXM; A100 SXM; L40S; L4; A10; T4. GeForce: the white
# papers of the architectures (RTX Blackwell, Ada, GA102), in which the figure for float32 accumulation is half of that
# for float16 accumulation.
GPUS: dict[str, GpuModel] = {
    "b200": GpuModel("B200", 180 * GB, 7.7e12, 2250e12, 75e12),
    "h200": GpuModel("H200", 141 * GB, 4.8e12, 989e12, 67e12),
    "h100": GpuModel("H100", 80 * GB, 3.35e12, 989e12, 67e12),
    "a100_80": GpuModel("A100 80 GB", 80 * GB, 2.039e12, 312e12, 19.5e12),
    "a100_40": GpuModel("A100 40 GB", 40 * GB, 1.555e12, 312e12, 19.5e12),
    "l40s": GpuModel("L40S", 48 * GB, 0.864e12, 362e12, 91.6e12),
    "l4": GpuModel("L4", 24 * GB, 0.3e12, 121e12, 30.3e12),
    "a10": GpuModel("A10", 24 * GB, 0.6e12, 125e12, 31.2e12),
    "rtx5090": GpuModel("RTX 5090", 32 * GB, 1.792e12, 209.5e12, 104.8e12),
    "rtx4090": GpuModel("RTX 4090", 24 * GB, 1.008e12, 165.2e12, 82.6e12),
    "rtx3090": GpuModel("RTX 3090", 24 * GB, 0.936e12, 71e12, 35.6e12),
    "t4": GpuModel("T4", 16 * GB, 0.32e12, 65e12, 8.1e12, bfloat16=False),
}

TOO_OLD = ("v100", "p100", "p40", "k80")
"""GPUs for which the engines have no code: their compute capability is below 7.5."""


def find_gpu(name: str) -> GpuModel:
    """Return the GPU that `cluster.gpu` names; case, spaces and hyphens do not matter. Raises UserError."""
    key = name.lower().replace("-", "_").replace(" ", "")
    if key == "a100":
        key = "a100_80"
    if key.startswith(TOO_OLD):
        remedy = "vLLM 0.32 does not run on it, because its compute capability is below 7.5: choose a newer GPU"
        raise UserError("cluster.gpu", name, remedy)
    if key not in GPUS:
        hint = did_you_mean(key, GPUS)
        raise UserError("cluster.gpu", name, f"is not in the table of GPUs{hint} (known: {', '.join(GPUS)})")
    return GPUS[key]


def key_of_installed(driver_name: str) -> str | None:
    """Return the key in `GPUS` for a GPU's name from its driver, such as `NVIDIA H100 80GB HBM3`; None if unknown.

    A MIG slice has only a share of its GPU's speed and is unknown.
    """
    if " MIG " in driver_name:
        return None
    compact = driver_name.lower().replace(" ", "")
    for key in GPUS:
        model, _, gigabytes = key.partition("_")
        if model in compact and (not gigabytes or f"{gigabytes}gb" in compact):
            return key
    return None
