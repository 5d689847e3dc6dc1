#!/usr/bin/env bash
# Stop Ray on this machine: every Ray process of this user, including the driver of a running sweep, which can be resumed.
# If this machine is a worker, the sweep continues without it. Usage: scripts/cluster_stop.sh [--force]
set -euo pipefail

ray="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.venv/bin/ray"
[ -x "$ray" ] || { echo "error: there is no $ray: run \`make setup\` first" >&2 && exit 2; }
exec "$ray" stop --grace-period 30 "$@"
