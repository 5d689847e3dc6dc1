#!/usr/bin/env bash
# Install this project into .venv. Usage: scripts/setup.sh [EXTRA...], such as `scripts/setup.sh finetune dev`.
#
# Needs python3 (3.11 to 3.13) with pip or venv; installs uv into .uv/ if the machine has none.
# The engine's extra is `gpu` if nvidia-smi lists a GPU, else `cpu`; ENGINE=cpu or ENGINE=gpu overrides this.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

UV_VERSION=0.13.9
unfinished=.venv/.setup-unfinished

say() { printf 'set-up: %s\n' "$*" >&2; }
fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1; }

# Only one set-up runs in this folder at a time. A second one waits for it, and then has little left to do.
if [ -z "${SETUP_LOCKED:-}" ] && command -v flock >/dev/null; then
    SETUP_LOCKED=1 exec flock pyproject.toml "$BASH" scripts/setup.sh "$@"
fi

python=
for candidate in python3 python3.13 python3.12 python3.11; do
    if fits "$candidate"; then python=$candidate && break; fi
done

# --target needs no permission, and is allowed even if the system's Python is "externally managed".
install_uv() {
    say "installing uv into .uv/"
    for candidate in "$python" python3; do
        if "$candidate" -m pip --version >/dev/null 2>&1; then
            "$candidate" -m pip install -qq --root-user-action ignore --target .uv --upgrade "uv==$UV_VERSION" && return
        elif "$candidate" -m venv .uv/venv >/dev/null 2>&1; then
            .uv/venv/bin/pip install -qq --root-user-action ignore --target .uv --upgrade "uv==$UV_VERSION" && return
        fi
    done
    say "uv could not be installed: give Python its pip (Debian: apt-get install python3-pip), or install uv yourself, and call again"
    exit 1
}
export PATH="$PWD/.uv/bin:$PATH"
uv --version >/dev/null 2>&1 || install_uv

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

if [ -n "${ENGINE:-}" ]; then
    extras=("$ENGINE" "$@")
elif [[ "$(nvidia-smi -L 2>/dev/null)" == *GPU* ]]; then
    extras=(gpu "$@")
elif [ "$(uname -s)" = Linux ]; then
    extras=(cpu "$@")
else
    extras=("$@") # vLLM is built for Linux; engine=transformers works without it
fi
overrides=()
if [ "${extras[0]:-}" = cpu ]; then overrides=(--override scripts/cpu-overrides.txt); fi

target=".${extras[*]+[$(IFS=, && echo "${extras[*]}")]}"
say "installing $target into .venv"
if ! uv pip install --python .venv ${overrides[@]+"${overrides[@]}"} --editable "$target"; then
    [ -n "$first" ] || rm -f "$unfinished" # the old environment still works: uv downloads everything before it installs
    exit 1
fi
rm -f "$unfinished"
if [ "${extras[0]:-}" = cpu ] && ! .venv/bin/python -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null; then
    say "vLLM's CPU engine needs libnuma, which this machine lacks (Debian: apt-get install libnuma1)"
fi
touch .venv/.setup-done
