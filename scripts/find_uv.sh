#!/usr/bin/env bash
# Find uv, or install it into .uv/, for the scripts that source this. Sets `python` to a Python that this project can use.

say() { printf 'set-up: %s\n' "$*" >&2; }
fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1; }

python=
for candidate in python3 python3.13 python3.12 python3.11; do
    if fits "$candidate"; then python=$candidate && break; fi
done

# --target needs no permission, and is allowed even if the system's Python is "externally managed".
install_uv() {
    local options=(-qq --root-user-action ignore --target .uv --upgrade --require-hashes --requirement scripts/locks/uv.txt)
    say "installing uv into .uv/"
    for candidate in "$python" python3; do
        if "$candidate" -m pip --version >/dev/null 2>&1; then
            "$candidate" -m pip install "${options[@]}" && return
        elif "$candidate" -m venv .uv/venv >/dev/null 2>&1; then
            .uv/venv/bin/pip install "${options[@]}" && return
        fi
    done
    say "uv could not be installed: give Python its pip (Debian: apt-get install python3-pip), or install uv yourself, and call again"
    exit 1
}
export PATH="$PWD/.uv/bin:$PATH"
uv --version >/dev/null 2>&1 || install_uv
