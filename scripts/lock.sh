#!/usr/bin/env bash
# Write scripts/locks anew: the versions and hashes that scripts/setup.sh accepts. Versions that fit pyproject.toml stay;
# `scripts/lock.sh --upgrade` and `--upgrade-package NAME` renew them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=/dev/null
. scripts/find_uv.sh
unset UV_FIND_LINKS # its files may differ from those of the index
locks=scripts/locks

# Every file of a release, for Linux and macOS and each Python of pyproject.toml.
lock() {
    local name=$1
    shift
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url \
        --custom-compile-command "make lock" --output-file "$locks/$name.txt" "$@"
}
everything=(pyproject.toml "$locks/platforms.in" --extra finetune --extra dev "$@")
lock cpu --extra cpu --override scripts/cpu-overrides.txt "${everything[@]}"
lock gpu --extra gpu "${everything[@]}"
lock tools "$locks/tools.in" "$@"
lock uv "$locks/uv.in"

# PyTorch's index alone offers the CPU build. Its hashes are kept if it cannot be reached.
torch=$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' "$locks/cpu.txt")
if ! UV_HTTP_RETRIES=0 lock torch-cpu --torch-backend cpu --no-deps - <<<"$torch+cpu"; then
    say "$locks/torch-cpu.txt is left as it is, because PyTorch's index could not be read"
fi
grep -q "^$torch+cpu " "$locks/torch-cpu.txt" || { say "$locks/torch-cpu.txt is not for $torch" && exit 1; }
