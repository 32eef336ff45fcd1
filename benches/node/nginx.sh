#!/usr/bin/env bash
# nginx, as the benches start servers: prints its address and its workers' process numbers on one
# line as soon as it takes connections, and ends at the end of its standard input. WORKERS is the
# number of workers, TASK what they do: nothing but `http`.
set -euo pipefail
[[ ${TASK:-http} == http ]] || exit 1
workers=${WORKERS:-4}
directory=$(mktemp -d)
nginx=
finish() {
    [[ -z $nginx ]] || kill "$nginx" 2>/dev/null || true
    wait || true
    rm -rf "$directory"
}
trap finish EXIT
# nginx has no port 0: the first free one of some is taken.
for port in $(shuf -i 20000-29999 -n 10); do
    cat >"$directory/nginx.conf" <<CONF
daemon off;
worker_processes $workers;
pid $directory/pid;
error_log stderr crit;
events { worker_connections 4096; }
http {
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path $directory/body;
    proxy_temp_path $directory/proxy;
    fastcgi_temp_path $directory/fastcgi;
    uwsgi_temp_path $directory/uwsgi;
    scgi_temp_path $directory/scgi;
    server {
        listen 127.0.0.1:$port backlog=4096${NGINX_LISTEN:+ $NGINX_LISTEN};
        default_type text/plain;
        location / { return 200 "hello\n"; }
    }
}
CONF
    nginx -p "$directory" -c "$directory/nginx.conf" >&2 &
    nginx=$!
    # Its workers are there as soon as there are as many of its children; if it ends before that,
    # the port is taken.
    while kill -0 "$nginx" 2>/dev/null && ((SECONDS < 10)); do
        pids=$(pgrep -P "$nginx" | tr '\n' ' ') || true
        if [[ $(wc -w <<<"$pids") -eq $workers ]]; then
            echo "127.0.0.1:$port $nginx $pids"
            cat >/dev/null
            exit
        fi
    done
    kill "$nginx" 2>/dev/null || true
done
exit 1
