#!/usr/bin/env bash
# Starts gunicorn and, once it can predict, nginx on $PORT; stops both on TERM or INT; fails when either dies.
set -euo pipefail
trap 'exit 0' TERM INT # until there is something to stop
cd "$(dirname "${BASH_SOURCE[0]}")"
PATH=$PATH:/usr/sbin # Debian's place for nginx, which a user's PATH may lack

say() { printf 'cadastro-produto: %s\n' "$*" >&2; }
refuse() { say "$*"; exit 64; }

port=${PORT-8080}
[[ $port =~ ^[1-9][0-9]{0,4}$ && $port -le 65535 ]] || refuse "PORT must be a number from 1 to 65535, not '$port'"
rate_limit=${RATE_LIMIT-50}
[[ $rate_limit =~ ^(0|[1-9][0-9]{0,5})$ ]] || refuse "RATE_LIMIT must be a number from 0 to 999999, not '$rate_limit'"
[[ ${WEB_CONCURRENCY-1} =~ ^[1-9][0-9]{0,2}$ ]] || refuse "WEB_CONCURRENCY must be a number from 1 to 999, not '$WEB_CONCURRENCY'"
cors=${CORS_ORIGINS-}
origin='https?://[a-z0-9.-]{1,255}(:[0-9]{1,5})?'
[[ -z $cors || $cors =~ ^$origin(,$origin)*$ ]] || refuse "CORS_ORIGINS must be origins with commas between, such as https://shop.example, not '$cors'"
page_api=$(sed -n 's/.*<meta name="api" content="\([^"]*\)".*/\1/p' webclient/cadastro.html)
[[ -z $page_api || $page_api =~ ^$origin$ ]] || refuse "the page's meta \"api\" must be an origin, not '$page_api'"
problem=$(python -c 'import socket, sys
try: socket.create_server(("", int(sys.argv[1]))).close()
except OSError as error: print(error.strerror)' "$port")
[[ -z $problem ]] || refuse "cannot listen on port $port: $problem"

# A folder of its own each time: nothing is edited in place, and a restart meets nothing stale.
run=$(mktemp -d /tmp/cadastro-produto.XXXXXXXX)
ln -s "$PWD/webclient" "$run/webclient"
edit=(-e "s|\$PORT|$port|g" -e "s|\$RATE_LIMIT|$rate_limit|g" -e "s|\$RUN|$run|g"
  -e "s|\$CORS_ORIGINS|$(sed -E 's/[^,]+/& &;/g; s/,/ /g' <<<"$cors")|" -e "s| \?\$PAGE_API|${page_api:+ $page_api}|")
[[ -e /proc/net/if_inet6 ]] || edit+=(-e '/listen \[::\]/d') # a kernel without IPv6 refuses the address
[[ $rate_limit != 0 ]] || edit+=(-e '/limit_req/d')
for file in nginx.conf default; do sed "${edit[@]}" "$file" >"$run/$file"; done

# Runs at every exit. Each child leads a process group, with its workers, which outlives a child that was killed.
# shellcheck disable=SC2317 # called by trap
finish() {
  local status=$?
  trap '' TERM INT
  # What bash leaves with where one signal meets another's trap: it is stopped, and has stopped all.
  [[ $status != 143 && $status != 130 ]] || status=0
  for pid in $(jobs -p) ${dead-}; do kill -KILL -- "-$pid" 2>/dev/null || true; done
  exec >&-
  wait
  rm -rf "$run"
  exit "$status"
}
trap finish EXIT

# nginx takes no new connection and ends once it has answered every request that it read; only then does gunicorn.
# `jobs` knows a child even where the signal came before its pid was noted: gunicorn first, then nginx.
# shellcheck disable=SC2317 # called by trap
stop() {
  trap '' TERM INT
  touch "$run/stopping" # /api/health says 503 from here on, for as long as there is somebody to say it
  sleep 0.2
  mapfile -t children < <(jobs -p)
  end QUIT "${children[1]-}"
  end TERM "${children[0]-}"
  exit 0
}
# Until it is gone, since a signal sent before a process has its handlers is lost.
# shellcheck disable=SC2317 # called by stop
end() { [[ -z $2 ]] || while kill -s "$1" "$2" 2>/dev/null; do sleep 0.05; done; }
trap stop TERM INT

# Sessions of their own: a terminal's Ctrl-C reaches only this script, which stops them in order.
TMPDIR=$run READY_FILE=$run/ready setsid gunicorn --bind "unix:$run/app.sock" --bind "unix:$run/health.sock" &
gunicorn=$!
until [[ -e $run/ready ]]; do
  kill -0 "$gunicorn" 2>/dev/null || { say "gunicorn ended before it could predict"; exit 1; }
  sleep 0.02
done

# nginx opens its log by name, which the kernel refuses where stdout is a socket or another user's pipe.
if ! { : >>/dev/stdout; } 2>/dev/null; then exec > >(trap '' TERM INT; exec cat); fi

as_root=()
[[ $(id -u) != 0 ]] || as_root=(-g 'user root;') # else its worker is nobody, who may not read a checkout
setsid nginx -e stderr -c "$run/nginx.conf" "${as_root[@]}" &
nginx=$!
say "http://localhost:$port/cadastro.html"

status=0
wait -n -p dead "$nginx" "$gunicorn" || status=$?
[[ $dead == "$nginx" ]] && name=nginx || name=gunicorn
say "$name ended by itself, with status $status"
exit 1
