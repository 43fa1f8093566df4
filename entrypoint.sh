#!/usr/bin/env -S --block-signal=TERM,INT bash
# entrypoint.sh [web|api]: nginx and gunicorn, or one of them alone. Checks the settings, writes nginx's configuration for
# them, and hands over to launch.py, which starts, watches and stops.
# TERM and INT are blocked from the first line on, so that one during the start is not lost but waits for launch.py: as
# process 1 the kernel would throw them away, and bash now and then loses an INT that meets the end of a command.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
PATH=$PATH:/usr/sbin # Debian's place for nginx, which a user's PATH may lack

refuse() { printf 'cadastro-produto: %s\n' "$*" >&2; exit 64; }

role=${1-both}
[[ $role =~ ^(both|web|api)$ ]] || refuse "runs 'web', 'api' or, without an argument, both; not '$role'"
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
export API=${API-api:8080}
[[ $API =~ ^([A-Za-z0-9.-]+|\[[0-9a-f:]+\]):[0-9]{1,5}$ ]] || refuse "API must be a host and a port, such as api:8080, not '$API'"

# A folder of its own each time: nothing is edited in place, and a restart meets nothing stale.
run=$(mktemp -d /tmp/cadastro-produto.XXXXXXXX)
ln -s "$PWD/webclient" "$run/webclient"
edit=(-e "s|\$PORT|$port|g" -e "s|\$RATE_LIMIT|$rate_limit|g" -e "s|\$RUN|$run|g"
  -e "s|\$CORS_ORIGINS|$(sed -E 's/[^,]+/& &;/g; s/,/ /g' <<<"$cors")|" -e "s| \?\$PAGE_API|${page_api:+ $page_api}|")
[[ -e /proc/net/if_inet6 ]] || edit+=(-e '/listen \[::\]/d') # a kernel without IPv6 refuses the address
if [[ $role == web ]]; then
  # The upstream is another container, by a name that is looked up anew every 2 s; its gunicorn takes the whole path, and
  # its clock may be another. A try may take half as long as where there is but one, so that two fit. nginx asks
  # nameservers in turn, of which only the first may know the containers' names.
  nameserver=$(awk '$1 == "nameserver" { print $2 ~ /:/ ? "[" $2 "]" : $2; exit }' /etc/resolv.conf)
  edit+=(-e "s/set \$\(app\|health\) .*;/set \$\1 $API;/" -e "s/\$RESOLVER/${nameserver:-127.0.0.1}/"
    -e '/ rewrite / d; / X-Queued-At / d; / proxy_next_upstream_tries / d'
    -e 's/proxy_connect_timeout 2s/proxy_connect_timeout 500ms/; s/proxy_read_timeout 2s/proxy_read_timeout 1s/'
    -e 's/proxy_next_upstream error/& timeout/')
else
  edit+=(-e '/ resolver/d')
fi
[[ $rate_limit != 0 ]] || edit+=(-e '/limit_req/d')
for file in nginx.conf default; do sed "${edit[@]}" "$file" >"$run/$file"; done

# nginx opens its log by name, which the kernel refuses where stdout is a socket or another user's pipe.
cat=()
if ! { : >>/dev/stdout; } 2>/dev/null; then exec > >(exec cat); cat=("$!"); fi

exec python -IS launch.py "$role" "$port" "$run" "${cat[@]}"
