#!/usr/bin/env bash
# Check this project on a GPU (goal: 10 minutes), and print a table for benchmarks/RESULTS.md.
#
#   make setup && scripts/gpu_check.sh          # all stages, on a machine with the project installed
#   scripts/gpu_check.sh --stages 1             # the kernel and resident weights alone, without vLLM
#   scripts/gpu_check.sh --device cpu           # a rehearsal on a CPU, at small sizes
#
# Stage 1: bits against the reference, rates against a device copy, cost of writes, registration of memory.
# Stage 2: tests/gpu: vLLM with tiny models, with CUDA graphs and without, each placement of the base, the KV cache.
# Stage 3: one small sweep of the embedded model.
#
# PYTHON names the interpreter: .venv/bin/python if it is there, else python3. The exit status is 1 if a check fails.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
python="${PYTHON:-}"
if [ -z "$python" ]; then
    if [ -x .venv/bin/python ]; then python=.venv/bin/python; else python=python3; fi
fi
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
if command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=name,driver_version,compute_cap,memory.total --format=csv || true
fi
exec "$python" -m scripts.gpu_check "$@"
