#!/usr/bin/env bash
# Look at what is installed, with tools in an environment of their own (.venv-tools). Usage: scripts/supply_chain.sh VERB
#   audit: ask PyPI whether a locked version has a known vulnerability; fails if one has, or if PyPI does not say
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
        for lock in cpu gpu; do
            say "audit of scripts/locks/$lock.txt"
            "$tools/pip-audit" --strict --disable-pip --require-hashes --progress-spinner off \
                --requirement "scripts/locks/$lock.txt"
        done
        ;;
    sbom)
        mkdir -p build
        "$tools/cyclonedx-py" environment --pyproject pyproject.toml --output-reproducible \
            --output-file build/sbom.json .venv/bin/python
        echo build/sbom.json
        ;;
    *)
        say "usage: scripts/supply_chain.sh audit|sbom"
        exit 2
        ;;
esac
