#!/usr/bin/env bash
# Remove from an environment what no sweep uses: tests, programs and debug symbols that packages bring, and on CPUs Triton,
# which compiles for GPUs only. Usage: docker/trim.sh VENV ENGINE, in the build stage of an image. On CPUs it needs binutils.
set -euo pipefail
venv=$1 engine=$2
packages=$(echo "$venv"/lib/python3.*/site-packages)

rm -rf "$packages"/torch/{test,bin/test_*} "$packages"/ray/{jars,rllib}
for package in matplotlib mpl_toolkits networkx numba pandas pyarrow scipy sympy; do
    find "$packages/$package" -type d -name tests -prune -exec rm -rf {} +
done
if [ "$engine" = cpu ]; then
    rm -rf "$packages"/triton "$packages"/triton-*
    strip --strip-unneeded "$packages"/vllm/_C*.so "$packages"/torch/lib/libtorch_cpu.so
fi
rm -f "$venv/.lock" # of uv; everybody may write to it
du -sh "$venv" >&2
