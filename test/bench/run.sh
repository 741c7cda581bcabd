#!/usr/bin/env bash
# run.sh [E20|E29C|E29G]...   hakobune beside what a person would do without it, on the same system, one after the other
#
# The system is the test application in one container, its database in its own layer. Beside hakobune: `docker commit` and
# `docker save` to a file, and the same into restic. Each backs up twice, the second time with a megabyte added, and each brings
# the system back to an engine from which container and images have been removed, until it is healthy and has the same content.
# Run it under test/setup/run.sh, which brings engines, images and restic; `make bench` does.
#
# Times are of one run on one machine, with caches as they come: the ratios say something, the seconds little.
set -euo pipefail
top=$(readlink -f "$(dirname "$0")/../..")
. "$top/test/setup/lib.sh"
need restic:restic
[ -n "${HAKOBUNE_TEST_IMAGES:-}" ] || die "run me by test/setup/run.sh"
command -v docker >/dev/null || need docker:docker-cli

work=$(mktemp -d "${TMPDIR:-/tmp}/hakobune-bench.XXXXXX")
name=hakobune-bench
trap 'remove; rm -rf --one-file-system "$work"' EXIT
export XDG_CACHE_HOME=$work/cache XDG_STATE_HOME=$work/state
export HAKOBUNE_REPOSITORY=$work/hakobune HAKOBUNE_PASSWORD=bench
export RESTIC_REPOSITORY=$work/restic RESTIC_PASSWORD=bench

# remove takes away the system and every image of it.
remove() {
  docker rm -f $name >/dev/null 2>&1 || true
  docker images --format '{{.Repository}}:{{.Tag}}' | grep -E '^(hakobune-test/app|hakobune-bench|hakobune/hakobune-bench)' | xargs -r docker rmi -f >/dev/null 2>&1 || true
}

# timed COMMAND... runs a command quietly and sets took to its milliseconds.
timed() {
  local start=${EPOCHREALTIME/./}
  "$@" >"$work/log" 2>&1 || { tail "$work/log" >&2; die "$*"; }
  took=$(((${EPOCHREALTIME/./} - start) / 1000))
}

healthy() { [ "$(docker inspect -f '{{.State.Health.Status}}' $name 2>/dev/null)" = healthy ]; }
start() {
  docker run -d --name $name --label io.github.hakobune-dr.system=$name -p 8090:80 "$1"
  within 120 healthy
}
site() { curl -fsS "$@"; }
size() { du -s --apparent-size -B1 "$1" | cut -f1; }

save_docker() { docker commit $name $name && docker save -o "$work/save.tar" $name; }
save_restic() { docker commit $name $name && docker save $name | restic backup -q --stdin --stdin-filename $name.tar; }
save_hakobune() { "$top/bin/hakobune" backup $name; }
back_docker() { docker load -i "$work/save.tar" && start $name; }
back_restic() { restic dump -q latest $name.tar | docker load && start $name; }
back_hakobune() { "$top/bin/hakobune" restore $name && within 120 healthy; }
store_docker() { size "$work/save.tar"; }
store_restic() { size "$work/restic"; }
store_hakobune() { size "$work/hakobune"; }

# each prints a row: its milliseconds or bytes, and how many times hakobune's they are.
row() {
  awk -v what="$1" -v unit="$2" -v h="$3" -v d="$4" -v r="$5" 'BEGIN {
    by = unit == "s" ? 1000 : 1048576
    printf "%-34s %9.2f %-3s %9.2f %5.1fx %9.2f %5.1fx\n", what, h/by, unit, d/by, d/h, r/by, r/h }'
}

bench() {
  local engine=$1 host="HAKOBUNE_TEST_DOCKER_$1" at="HAKOBUNE_TEST_ADDRESS_$1" way before
  local -A first again less back stored more
  export DOCKER_HOST=${!host}
  local url=http://${!at}:8090
  rm -rf "${work:?}"/*
  "$top/bin/hakobune" init >/dev/null 2>&1
  restic init -q
  docker load -q -i "$HAKOBUNE_TEST_IMAGES/app.tar" >/dev/null
  start hakobune-test/app >/dev/null
  site -d '' "$url/add?courses=50&kb=1024" >/dev/null
  for way in hakobune docker restic; do
    timed save_$way
    first[$way]=$took stored[$way]=$(store_$way)
  done
  site -d '' "$url/add?courses=1&kb=1024" >/dev/null
  before=$(site "$url/checksum")
  for way in hakobune docker restic; do
    less[$way]=$(store_$way)
    [ $way != docker ] || less[$way]=0 # a second file
    timed save_$way
    again[$way]=$took more[$way]=$(($(store_$way) - less[$way]))
  done
  for way in hakobune docker restic; do
    remove
    timed back_$way
    back[$way]=$took
    [ "$(site "$url/checksum")" = "$before" ] || die "$way: the content is not the same"
  done
  remove
  printf '\n%s: Docker %s\n' "$engine" "$(docker version --format '{{.Server.Version}}')"
  printf '%-34s %13s %16s %16s\n' '' hakobune 'save/load' 'save to restic'
  row "first backup" s "${first[hakobune]}" "${first[docker]}" "${first[restic]}"
  row "stored" MiB "${stored[hakobune]}" "${stored[docker]}" "${stored[restic]}"
  row "second backup, 1 MiB more" s "${again[hakobune]}" "${again[docker]}" "${again[restic]}"
  row "stored in addition" MiB "${more[hakobune]}" "${more[docker]}" "${more[restic]}"
  row "back and healthy" s "${back[hakobune]}" "${back[docker]}" "${back[restic]}"
}

[ $# -gt 0 ] || set -- E20 E29C
for engine in "$@"; do bench "$engine"; done
