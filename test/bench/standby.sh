#!/usr/bin/env bash
# standby.sh [MIB]   how long a failover takes and what it moves, cold and warm, beside the application's own start
#
# A system of one image (340 MB: web server, PHP, MariaDB) and a volume of MIB (1200) of which half compresses, home on an engine
# like e20, standby on one like e29c, both private; the repository in a MinIO on the loopback interface. Each way is taken
# twice on a standby without the system's images, volumes and caches; the better time counts. Prints a table in Markdown.
# HAKOBUNE is the program to measure; else one is built from here.
. "$(dirname "$(readlink -f "$0")")/../setup/lib.sh"

here=$(dirname "$(readlink -f "$0")")
mib=${1:-1200}
"$here/../setup/tools.sh"
archive=$("$here/../setup/images.sh")/app.tar

work=$(mktemp -d "${TMPDIR:-/tmp}/hakobune-standby.XXXXXX")
trap '[ -z "${minio:-}" ] || kill "$minio"; "$here/../setup/engines.sh" down "$work/e"; rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
"$here/../setup/engines.sh" up "$work/e" e20 e29c
hakobune=${HAKOBUNE:-$work/hakobune}
[ -n "${HAKOBUNE:-}" ] || CGO_ENABLED=0 go -C "$here" build -trimpath -ldflags '-s -w' -o "$hakobune" ../../cmd/hakobune

port=$((20000 + RANDOM % 10000))
export MINIO_ROOT_USER=hakobune-bench MINIO_ROOT_PASSWORD=hakobune-bench-secret
"$tools/minio" server --quiet --address "127.0.0.1:$port" "$work/store" >"$work/minio.log" 2>&1 &
minio=$!
within 60 curl -s -o /dev/null "http://127.0.0.1:$port/"
export AWS_ACCESS_KEY_ID=$MINIO_ROOT_USER AWS_SECRET_ACCESS_KEY=$MINIO_ROOT_PASSWORD AWS_REGION=us-east-1
export HAKOBUNE_REPOSITORY=s3:http://127.0.0.1:$port/ark HAKOBUNE_PASSWORD=quay HAKOBUNE_SITE=home HOME=$work XDG_STATE_HOME= XDG_CACHE_HOME=

home() { DOCKER_HOST=unix://$work/e/e20/docker.sock "$@"; }
away() { DOCKER_HOST=unix://$work/e/e29c/docker.sock HOME=$work/away HAKOBUNE_SITE=cloud "$@"; }

# number NAME prints a number out of the last line of JSON that has it.
number() { grep -o "\"$1\":[0-9]*" | tail -1 | cut -d: -f2; }

say "making a system with a volume of $mib MiB"
home docker load -q -i "$archive" >/dev/null
home docker run -d --name hkbench-app -v hkbench-data:/srv hakobune-test/app >/dev/null
# shellcheck disable=SC2016 # for the shell in the container
home docker exec hkbench-app sh -c 'for n in $(seq $0); do head -c 524288 /dev/urandom >/srv/$n; head -c 524288 /dev/zero | tr "\0" "$((n % 10))" >>/srv/$n; done' "$mib"
home "$hakobune" init --create-bucket >/dev/null 2>&1
home "$hakobune" backup -q hkbench-app >&2

# clear leaves nothing of the system on the standby.
clear_standby() {
  away docker rm -f hkbench-app >/dev/null 2>&1 || true
  away docker volume ls -q | xargs -r -n1 env DOCKER_HOST="unix://$work/e/e29c/docker.sock" docker volume rm -f >/dev/null
  away docker images -q | sort -u | xargs -r -n1 env DOCKER_HOST="unix://$work/e/e29c/docker.sock" docker rmi -f >/dev/null
  rm -rf --one-file-system "$work/away"
  mkdir "$work/away"
  sync
}

# failover KIND notes down the better RTO, and what was fetched.
failover() {
  local out rto
  out=$(away "$hakobune" failover --json -q hkbench-app)
  rto=$(number rto <<<"$out")
  [ -n "${best[$1]:-}" ] && [ "${best[$1]}" -le "$rto" ] || best[$1]=$rto
  fetched[$1]=$(number fetched <<<"$out")
  say "$1: $((rto / 1000000)) ms, ${fetched[$1]} bytes of content"
}

declare -A best fetched
own=
for _ in 1 2; do
  clear_standby
  failover cold
  clear_standby
  away "$hakobune" standby sync -q hkbench-app >&2
  failover warm
  # The application's own start: the same container, stopped and started.
  away docker stop -t 5 hkbench-app >/dev/null
  start=$(date +%s%N)
  away docker start hkbench-app >/dev/null
  until [ "$(away docker inspect -f '{{.State.Health.Status}}' hkbench-app)" = healthy ]; do sleep 0.1; done
  took=$(($(date +%s%N) - start))
  [ -n "$own" ] && [ "$own" -le "$took" ] || own=$took
  say "own start: $((took / 1000000)) ms"
done

seconds() { awk -v n="$1" 'BEGIN { printf "%.1f s", n / 1e9 }'; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'; }
cat <<TABLE
| | cold | warm | the application's own start |
|---|---|---|---|
| from go to healthy | $(seconds "${best[cold]}") (1×) | $(seconds "${best[warm]}") ($(ratio "${best[warm]}" "${best[cold]}")×) | $(seconds "$own") ($(ratio "$own" "${best[cold]}")×) |
| beyond the application's own start | $(seconds $((best[cold] - own))) | $(seconds $((best[warm] - own))) | |
| content fetched after go | $((fetched[cold] >> 20)) MiB | $((fetched[warm] >> 10)) KiB | |
TABLE
