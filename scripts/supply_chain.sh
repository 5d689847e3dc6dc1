#!/usr/bin/env bash
# Look at what is installed, with tools in an environment of their own (.venv-tools). Usage: scripts/supply_chain.sh VERB
#   audit: ask PyPI whether a locked version has a known vulnerability. Exit code 1: one has; 69: PyPI does not say.
#   audit --offline: the same with a stored copy of advisories, whose age is stated
#   sbom: write a bill of materials of .venv (CycloneDX, JSON) to build/sbom.json
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=/dev/null
. scripts/find_uv.sh
tools=.venv-tools/bin
[ -e "$tools/python" ] || uv venv --quiet --python "${python:->=3.11,<3.14}" .venv-tools
uv pip install --quiet --python .venv-tools --require-hashes --requirement scripts/locks/tools.txt

case ${1:-} in
    audit)
        uv pip install --quiet --python .venv-tools --no-deps --require-hashes --requirement scripts/locks/advisories.txt
        "$tools/python" -m scripts.audit_locks "${@:2}"
        ;;
    sbom)
        mkdir -p build
        "$tools/cyclonedx-py" environment --pyproject pyproject.toml --output-reproducible \
            --output-file build/sbom.json .venv/bin/python
        echo build/sbom.json
        ;;
    *)
        say "usage: scripts/supply_chain.sh audit [--offline] | sbom"
        exit 2
        ;;
esac
