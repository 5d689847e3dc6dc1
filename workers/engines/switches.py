"""Environment variables that change what an engine computes. Those that are set are part of the engine's identity.

The attention backend, batch invariance and the precision of float32 products have fields of their own, with the value
in effect: vLLM 0.32 reads no variable for the first.
"""

from __future__ import annotations

import os

# What vLLM 0.32 reads on NVIDIA GPUs and CPUs for the models that can be measured: kernels, the order of sums, and how
# ranks add up. Variables for folders, ports, logs, time limits and caches are left out, and those of state-space
# models, latent attention and quantized weights, which are refused.
VLLM_SWITCHES = (
    "VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE",
    "VLLM_ALLREDUCE_USE_FLASHINFER",
    "VLLM_ALLREDUCE_USE_FLASHINFER_PCIE_IPC",
    "VLLM_ALLREDUCE_USE_SYMM_MEM",
    "VLLM_CPU_ATTN_SPLIT_KV",
    "VLLM_DISABLED_KERNELS",
    "VLLM_DISABLE_PYNCCL",
    "VLLM_ENABLE_GEMM_RS",
    "VLLM_ENABLE_HPC_OPS",
    "VLLM_ENABLE_INDUCTOR_COORDINATE_DESCENT_TUNING",
    "VLLM_ENABLE_INDUCTOR_MAX_AUTOTUNE",
    "VLLM_ENABLE_PREGRAD_PASSES",
    "VLLM_FLASHINFER_ALLREDUCE_BACKEND",
    "VLLM_FLASHINFER_AUTOTUNE_SKIP_OPS",
    "VLLM_KV_CACHE_LAYOUT",
    "VLLM_MOE_ROUTING_SIMULATION_STRATEGY",
    "VLLM_MOE_SKIP_PADDING",
    "VLLM_MOE_USE_DEEP_GEMM",
    "VLLM_PLUGINS",
    "VLLM_REPLICATE_EMBED",
    "VLLM_SKIP_P2P_CHECK",
    "VLLM_TRITON_FORCE_FIRST_CONFIG",
    "VLLM_TRITON_USE_TD",
    "VLLM_TUNED_CONFIG_FOLDER",
    "VLLM_USE_BREAKABLE_CUDAGRAPH",
    "VLLM_USE_DEEP_GEMM",
    "VLLM_USE_FUSED_MOE_GROUPED_TOPK",
    "VLLM_USE_HW_AGNOSTIC",
    "VLLM_USE_NCCL_SYMM_MEM",
    "VLLM_USE_OINK_OPS",
    "VLLM_USE_V2_MODEL_RUNNER",
)

# What the libraries below the engines read: torch, cuBLAS, Triton, NCCL, oneDNN and MKL.
LIBRARY_SWITCHES = (
    "CUBLASLT_WORKSPACE_SIZE",
    "CUBLAS_WORKSPACE_CONFIG",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "NCCL_ALGO",
    "NCCL_NVLS_ENABLE",
    "NCCL_PROTO",
    "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_BLAS_PREFER_CUBLASLT",
    "TRITON_F32_DEFAULT",
)


def switches_set(engine: str) -> dict[str, str]:
    """Return the switches that are set in this process's environment, with their values.

    Call this before the engine is loaded: vLLM sets some of them itself.

    Args:
        engine: `vllm` or `transformers`.
    """
    names = (*VLLM_SWITCHES, *LIBRARY_SWITCHES) if engine == "vllm" else LIBRARY_SWITCHES
    return {name: os.environ[name] for name in sorted(names) if os.environ.get(name)}
