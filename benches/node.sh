#!/usr/bin/env bash
# The same load for Node's cluster, for nginx, and for our servers, in one run, and one table.
# What is not installed is left out, with a word.
set -euo pipefail
cd "$(dirname "$0")/.."
node=$PWD/benches/node
servers=()
if command -v node >/dev/null; then
    servers+=(
        "node-round-robin=env NODE_CLUSTER_SCHED_POLICY=rr node $node/server.js"
        "node-none=env NODE_CLUSTER_SCHED_POLICY=none node $node/server.js"
    )
else
    echo "node is not installed: left out" >&2
fi
if command -v nginx >/dev/null; then
    servers+=(
        "nginx=bash $node/nginx.sh"
        "nginx-reuseport=env NGINX_LISTEN=reuseport bash $node/nginx.sh"
    )
else
    echo "nginx is not installed: left out" >&2
fi
exec cargo bench --locked -q --package benches --bench cluster -- beside "${servers[@]}"
