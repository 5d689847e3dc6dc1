#!/usr/bin/env bash
# Start a Ray cluster by hand: first the head, then a worker on each other machine.
#
#   scripts/cluster_start.sh head                  # on the first machine; prints the commands for the others
#   scripts/cluster_start.sh worker HEAD[:PORT]    # on every other machine
#   .venv/bin/python -m orchestrator run cluster=ray cluster.address=auto
#
# Processes authenticate with a token (RAY_AUTH_MODE=token) from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token;
# the head creates the last one if there is none. The token does not encrypt traffic: use a private network.
#
# Environment: NODE_IP is the address at which other machines reach this one. PORT is the head's port (6379); the next six
# ports are used too. BLOCK=1 stays in the foreground, for a service manager or container. Arguments after `--` go to
# `ray start`.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
ray="$root/.venv/bin/ray"
token_file="${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}"

usage() { sed -n '2,/^set/{s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2 && exit 2; }
fail() { printf 'error: %s\n' "$*" >&2 && exit 2; }

role=${1:-}
address=
case "$role" in
    head) shift ;;
    worker)
        address=${2:-}
        [ -n "$address" ] || usage
        shift 2
        ;;
    *) usage ;;
esac
if [ "${1:-}" = -- ]; then shift; elif [ $# -gt 0 ]; then usage; fi
[ -x "$ray" ] || fail "$root has no .venv: run \`make setup\` first, with the same version of this project on every machine"

export RAY_AUTH_MODE=token
export RAY_USAGE_STATS_ENABLED=0 RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0 RAY_worker_niceness=0
if [ -z "${RAY_AUTH_TOKEN:-}" ] && [ ! -s "$token_file" ]; then
    [ "$role" = head ] || fail "no token: copy ~/.ray/auth_token from the head to $token_file (mode 600)"
    [ -z "${RAY_AUTH_TOKEN_PATH:-}" ] || fail "RAY_AUTH_TOKEN_PATH=$token_file: there is no token in that file"
    (umask 077 && "$ray" get-auth-token --generate >/dev/null)
fi
if [ -z "${RAY_AUTH_TOKEN:-}${RAY_AUTH_TOKEN_PATH:-}" ]; then chmod 600 "$token_file"; fi # Ray itself writes it 644

# The ports are fixed so that a firewall can admit the machines of the cluster and no others.
port=${PORT:-6379}
options=(
    --node-manager-port "$((port + 1))" --object-manager-port "$((port + 2))"
    --runtime-env-agent-port "$((port + 3))" --dashboard-agent-grpc-port "$((port + 4))"
    --dashboard-agent-listen-port "$((port + 5))"
    --min-worker-port 10002 --max-worker-port 10999
    --disable-usage-stats
)
if [ -n "${NODE_IP:-}" ]; then options+=(--node-ip-address "$NODE_IP"); fi
if [ -n "${BLOCK:-}" ]; then options+=(--block); fi

if [ "$role" = head ]; then
    options+=(--head --port "$port" --dashboard-host 127.0.0.1 --ray-client-server-port "$((port + 6))")
else
    case "$address" in *:*) ;; *) address="$address:$port" ;; esac
    options+=(--address "$address")
fi

if [ -n "${BLOCK:-}" ]; then exec "$ray" start "${options[@]}" "$@"; fi
"$ray" start "${options[@]}" "$@" >&2

if [ "$role" = head ]; then
    cat <<MESSAGE
The head is running; its dashboard is reachable from this machine only.
On every other machine, with the token in ~/.ray/auth_token (mode 600):
    scripts/cluster_start.sh worker ${NODE_IP:-$("$root/.venv/bin/python" -c 'import ray.util; print(ray.util.get_node_ip_address())')}:$port
Then here:
    RAY_AUTH_MODE=token .venv/bin/python -m orchestrator run cluster=ray cluster.address=auto
Ports for the firewall: $port to $((port + 6)) and 10002 to 10999. To stop the cluster: scripts/cluster_stop.sh
MESSAGE
fi
