#!/usr/bin/env bash
# Ends Ray on this machine: every Ray process of this user, the driver of a running sweep included (it can be resumed).
# On a worker the sweep goes on without this machine. Usage: scripts/cluster_stop.sh [--force]
set -euo pipefail

ray="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.venv/bin/ray"
[ -x "$ray" ] || { echo "error: there is no $ray: run \`make setup\` first" >&2 && exit 2; }
exec "$ray" stop --grace-period 30 "$@"
