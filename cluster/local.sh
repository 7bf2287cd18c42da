#!/usr/bin/env bash
# A Ray cluster of several nodes on one machine: a head and two worker nodes, each with its own ports and folder.
#
#   cluster/local.sh start     then: source .ftlib/multi/env; python -m jobs.submit NAME --config FILE
#   cluster/local.sh status
#   cluster/local.sh stop
#
# NODE_CPUS (default 1) and WORKERS (default 2) set its size. It stands beside the quickstart's head and any other Ray.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly STATE=.ftlib/multi

case "${1:-}" in
start) exec .venv/bin/python -m ftlib.runtime.local start --state "$STATE" --num-cpus "${NODE_CPUS:-1}" --workers "${WORKERS:-2}" ;;
stop | status) exec .venv/bin/python -m ftlib.runtime.local "$1" --state "$STATE" ;;
*)
    echo "usage: cluster/local.sh start|stop|status" >&2
    exit 2
    ;;
esac
