#!/usr/bin/env bash
# Starts gunicorn and, once it can predict, nginx on $PORT; stops both on TERM or INT; fails when either dies.
set -euo pipefail
trap 'exit 0' TERM INT # until there is something to stop
cd "$(dirname "${BASH_SOURCE[0]}")"
PATH=$PATH:/usr/sbin # Debian's place for nginx, which a user's PATH may lack

say() { printf 'cadastro-produto: %s\n' "$*" >&2; }
refuse() { say "$*"; exit 64; }

# Runs at every exit, and anew if a signal interrupts it. Each child leads a process group, with its workers, which
# outlives a child that was killed; for a moment after its fork it has no group yet.
# shellcheck disable=SC2317 # called by trap
finish() {
  local status=${1-$?}
  trap '' TERM INT
  for pid in $(jobs -p) ${dead-}; do kill -KILL -- "-$pid" "$pid" 2>/dev/null || true; done
  exec >&- 2>&- # the first ends `cat`; on the second the shell would tell whom it killed
  wait
  rm -rf "${run-}"
  # A signal to every process may end a command of this script before the script has its own.
  [[ $status != 143 && $status != 130 ]] || status=0
  exit "$status"
}

# nginx takes no new connection and ends once it has answered every request that it read; gunicorn then has nothing to
# lose. `jobs` knows a child even where the signal came before its pid was noted: gunicorn first, then nginx.
# shellcheck disable=SC2317 # called by trap
stop() {
  trap '' TERM INT
  touch "$run/stopping" # /api/health says 503 from here on, for as long as there is somebody to say it
  sleep 0.2
  mapfile -t children < <(jobs -p)
  # Until it is gone, since a signal sent before it can be taken is lost.
  [[ -z ${children[1]-} ]] || while kill -QUIT "${children[1]}" 2>/dev/null; do sleep 0.05; done
  finish 0
}

# A session of its own, so that a terminal's Ctrl-C reaches only this script, and deaf to TERM and INT before it starts.
launch() { trap '' TERM INT; exec setsid python -IS launch.py "$@"; }

ended() {
  [[ $2 != 143 ]] || exit 0 # by a TERM to every process, before it was deaf
  say "$1 ended by itself, with status $2"
  exit 1
}

trap finish EXIT
trap 'finish 0' TERM INT
port=${PORT-8080}
[[ $port =~ ^[1-9][0-9]{0,4}$ && $port -le 65535 ]] || refuse "PORT must be a number from 1 to 65535, not '$port'"
rate_limit=${RATE_LIMIT-50}
[[ $rate_limit =~ ^(0|[1-9][0-9]{0,5})$ ]] || refuse "RATE_LIMIT must be a number from 0 to 999999, not '$rate_limit'"
[[ ${WEB_CONCURRENCY-1} =~ ^[1-9][0-9]{0,2}$ ]] || refuse "WEB_CONCURRENCY must be a number from 1 to 999, not '$WEB_CONCURRENCY'"
problem=$(trap '' TERM INT; python -c 'import socket, sys
try: socket.create_server(("", int(sys.argv[1]))).close()
except OSError as error: print(error.strerror)' "$port")
[[ -z $problem ]] || refuse "cannot listen on port $port: $problem"

# A folder of its own each time: nothing is edited in place, and a restart meets nothing stale.
run=$(mktemp -d /tmp/cadastro-produto.XXXXXXXX)
ln -s "$PWD/webclient" "$run/webclient"
edit=(-e "s|\$PORT|$port|g" -e "s|\$RATE_LIMIT|$rate_limit|g" -e "s|\$RUN|$run|g")
[[ -e /proc/net/if_inet6 ]] || edit+=(-e '/listen \[::\]/d') # a kernel without IPv6 refuses the address
[[ $rate_limit != 0 ]] || edit+=(-e '/limit_req/d')
for file in nginx.conf default; do sed "${edit[@]}" "$file" >"$run/$file"; done

trap stop TERM INT
TMPDIR=$run READY_FILE=$run/ready launch gunicorn --bind "unix:$run/app.sock" --bind "unix:$run/health.sock" &
gunicorn=$!
until [[ -e $run/ready ]]; do
  kill -0 "$gunicorn" 2>/dev/null || { dead=$gunicorn; wait "$dead" || ended gunicorn $?; }
  (trap '' TERM INT; exec sleep 0.02)
done

# nginx opens its log by name, which the kernel refuses where stdout is a socket or another user's pipe.
if ! { : >>/dev/stdout; } 2>/dev/null; then exec > >(trap '' TERM INT; exec cat); fi

as_root=()
[[ $(id -u) != 0 ]] || as_root=(-g 'user root;') # else its worker is nobody, who may not read a checkout
launch "$port" nginx -e /dev/null -c "$run/nginx.conf" "${as_root[@]}" &
nginx=$!
say "http://localhost:$port/cadastro.html"

status=0
wait -n -p dead "$nginx" "$gunicorn" || status=$?
[[ $dead == "$nginx" ]] && name=nginx || name=gunicorn
ended "$name" "$status"
