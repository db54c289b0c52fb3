#!/usr/bin/env bash
# A Ray cluster of two nodes on this machine, with token authentication, for as long as one command runs.
#
#   cluster/two_local_nodes.sh COMMAND [ARGUMENT...]    run COMMAND against the cluster, then stop it
#   cluster/two_local_nodes.sh                          keep it until Ctrl-C, and say how to reach it
#
# Ports are free ones and all files stand in a folder of its own, so that it disturbs no other Ray; it ends the
# processes it started and no others (`ray stop` would end every Ray on the machine). Ray listens on the machine's own
# address too: the token, made afresh each time, keeps others out.
# CPUS (default 1) and STORE_MB (default 100) are given to each node.
set -euo pipefail

cpus=${CPUS:-1}
store_bytes=$((${STORE_MB:-100} * 1024 * 1024))
nodes=()
# Sockets stand in this folder, and the system allows their paths 107 characters.
folder=$(mktemp -d /tmp/simsam-ray.XXXXXX)

stop() {
  trap '' INT TERM
  kill -TERM "${nodes[@]}" 2>/dev/null || true
  for ((i = 0; i < 50; i++)); do
    kill -0 "${nodes[@]}" 2>/dev/null || break
    sleep 0.2
  done
  # A node that was still starting may not listen; what it started ends with it.
  kill -KILL "${nodes[@]}" 2>/dev/null || true
  wait "${nodes[@]}" 2>/dev/null || true
  # A node's helpers, its dashboard for one, may outlive it for a moment and write there until they end.
  pkill -KILL -f -- "$folder" 2>/dev/null || true
  for ((i = 0; i < 50; i++)); do
    rm -rf "$folder" 2>/dev/null && return
    sleep 0.2
  done
  rm -rf "$folder"
}
trap stop EXIT
trap 'exit 130' INT TERM

free_ports() {
  python3 - "$1" <<'PYTHON'
import socket, sys
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(server.getsockname()[1] for server in held))
PYTHON
}

start_node() {
  # No GPUs: both nodes would claim the same ones.
  ray start --block --num-cpus "$cpus" --num-gpus 0 --object-store-memory "$store_bytes" \
    --min-worker-port 0 --max-worker-port 0 --disable-usage-stats "$@" </dev/null >"$folder/${#nodes[@]}.log" 2>&1 &
  nodes+=($!)
}

job_server_answers() {
  python3 - "$RAY_API_SERVER_ADDRESS/api/jobs/" "$folder/token" 2>/dev/null <<'PYTHON'
import pathlib, sys, urllib.request
token = pathlib.Path(sys.argv[2]).read_text()
urllib.request.urlopen(urllib.request.Request(sys.argv[1], headers={"Authorization": f"Bearer {token}"}), timeout=5)
PYTHON
}

fail() {
  echo "$1; the nodes said:" >&2
  tail -n 20 "$folder"/*.log >&2
  exit 1
}

(umask 077 && python3 -c 'import secrets; print(secrets.token_hex(32), end="")' >"$folder/token")
read -r gcs_port client_port dashboard_port agent_port other_agent_port < <(free_ports 5)
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$folder/token
unset RAY_AUTH_TOKEN
# What simsam and `ray job submit` look for.
export RAY_ADDRESS=127.0.0.1:$gcs_port RAY_API_SERVER_ADDRESS=http://127.0.0.1:$dashboard_port

start_node --head --port "$gcs_port" --temp-dir "$folder/ray" --ray-client-server-port "$client_port" \
  --include-dashboard true --dashboard-port "$dashboard_port" --dashboard-agent-listen-port "$agent_port"
deadline=$((SECONDS + 60))
until job_server_answers; do
  kill -0 "${nodes[0]}" 2>/dev/null || fail "the head node ended"
  ((SECONDS < deadline)) || fail "the head node did not answer within a minute"
  sleep 1
done
start_node --address "$RAY_ADDRESS" --dashboard-agent-listen-port "$other_agent_port"

if (($#)); then
  "$@"
else
  echo "two nodes of $cpus CPU each are up until Ctrl-C. In another terminal:"
  echo "  export RAY_ADDRESS=$RAY_ADDRESS RAY_API_SERVER_ADDRESS=$RAY_API_SERVER_ADDRESS" \
    "RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$RAY_AUTH_TOKEN_PATH"
  wait -n "${nodes[@]}"
  fail "a node ended"
fi
