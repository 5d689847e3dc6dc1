#!/usr/bin/env bash
# Install this project into .venv. Usage: scripts/setup.sh [EXTRA...], such as `scripts/setup.sh finetune dev`.
#
# Needs python3 (3.11 to 3.13) with pip or venv; installs uv into .uv/ if the machine has none.
# The engine's extra is `gpu` if nvidia-smi lists a GPU, else `cpu`; ENGINE=cpu or ENGINE=gpu overrides this.
# Only files whose SHA-256 is in scripts/locks are installed; LOCKED=no installs what the package index offers.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

locks=scripts/locks
unfinished=.venv/.setup-unfinished

# Only one set-up runs in this folder at a time. A second one waits for it, and then has little left to do.
if [ -z "${SETUP_LOCKED:-}" ] && command -v flock >/dev/null; then
    SETUP_LOCKED=1 exec flock pyproject.toml "$BASH" scripts/setup.sh "$@"
fi

# shellcheck source=/dev/null
. scripts/find_uv.sh

# uv does not read pip's configuration. A folder of wheels named there may hold a CPU build of torch: pass it on.
if [ -z "${UV_FIND_LINKS:-}" ]; then
    links=
    folders=$("${python:-python3}" -m pip config list 2>/dev/null | sed -n "s/^.*\\.find-links='\\(.*\\)'$/\\1/p" || true)
    for place in ${folders//\\n/ }; do
        if [ -d "$place" ]; then links="${links:+$links,}$place"; fi
    done
    if [ -n "$links" ]; then export UV_FIND_LINKS="$links"; fi
fi

# A set-up that was killed may have left half a package: make .venv again, from uv's cache.
if [ -e "$unfinished" ] || { [ -e .venv ] && ! fits .venv/bin/python; }; then
    say "an earlier set-up was interrupted: starting .venv anew"
    rm -rf .venv
fi
[ -e .venv ] || uv venv --quiet --python "${python:->=3.11,<3.14}" .venv
first=$([ -e .venv/.setup-done ] || echo yes)
touch "$unfinished"

engine=${ENGINE:-}
if [ -z "$engine" ]; then
    if [[ "$(nvidia-smi -L 2>/dev/null)" == *GPU* ]]; then
        engine=gpu
    elif [ "$(uname -s)" = Linux ]; then
        engine=cpu
    fi # vLLM is built for Linux; engine=transformers works without it
fi
extras=("${engine:-transformers}" "$@")

# The lock is a list of constraints: it fixes the version and the hashes of whatever the extras need. PyTorch's CPU build
# has hashes of its own: use them if that is the build that uv finds.
dependencies=(--python .venv --requirement pyproject.toml)
project=(--quiet --python .venv --no-deps --editable .)
for extra in ${extras[@]+"${extras[@]}"}; do dependencies+=(--extra "$extra"); done
if [ "$engine" = cpu ]; then dependencies+=(--override scripts/cpu-overrides.txt); fi
if [ "${LOCKED:-yes}" != no ]; then
    lock=$locks/${engine:-cpu}.txt
    dependencies+=(--require-hashes --constraint "$lock")
    project+=(--build-constraint "$lock")
    if [ "$engine" = cpu ]; then
        torch=$(sed -n 's/^\(torch==[^ +]*\).*/\1/p' "$locks/torch-cpu.txt")
        build=$(uv pip compile --quiet --no-deps --no-header --python .venv - <<<"$torch" || true)
        if [[ "$build" == *+cpu* ]]; then dependencies+=(--constraint "$locks/torch-cpu.txt"); fi
    fi
fi

# uv names what it downloads, and lists each package at the end: one line per package is left out here.
install() {
    uv pip install "$@" 2>&1 | { grep --line-buffered -v '^ [-+~] ' || true; } >&2
}

say "installing ${extras[*]+${extras[*]} }into .venv${first:+ (the first time, this downloads for some minutes)}"
if ! { install "${dependencies[@]}" && uv pip install "${project[@]}"; }; then
    [ -n "$first" ] || rm -f "$unfinished" # the old environment still works: uv downloads everything before it installs
    if [ "${LOCKED:-yes}" != no ]; then
        say "if an index or folder of yours offers other files than PyPI, LOCKED=no scripts/setup.sh installs those"
    fi
    exit 1
fi
rm -f "$unfinished"
if [ "$engine" = cpu ] && ! .venv/bin/python -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null; then
    say "vLLM's CPU engine needs libnuma, which this machine lacks (Debian: apt-get install libnuma1)"
fi
touch .venv/.setup-done
