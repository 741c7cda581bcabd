#!/usr/bin/env bash
# image.sh   builds the image of the benchmark's system once for each state of its recipe, and prints its file, as `docker save`
#            wrote it. It is built as test/setup/images.sh builds what it stands on.
. "$(dirname "$(readlink -f "$0")")/../setup/lib.sh"

here=$(dirname "$(readlink -f "$0")")
setup=$here/../setup
base=$("$setup/images.sh")
out=$cache/bench/$(cat "$here/system.Dockerfile" - <<<"${base##*/}" | sha256sum | cut -c1-16).tar

build() {
  [ ! -e "$out" ] || return 0
  work=$(mktemp -d "${TMPDIR:-/tmp}/hakobune-image.XXXXXX")
  trap '"$setup/engines.sh" down "$work/e"; rm -rf --one-file-system "$work"' EXIT
  "$setup/engines.sh" up "$work/e" local
  command -v docker >/dev/null || need docker:docker-cli
  export DOCKER_HOST=unix://$work/e/local/docker.sock DOCKER_BUILDKIT=0
  rm -rf "$cache/bench"
  mkdir -p "$cache/bench"
  docker load -q -i "$base/app.tar" >/dev/null
  say "building the benchmark's image"
  docker build -q --network host -t hakobune-bench/system - <"$here/system.Dockerfile" >"$cache/bench.log" 2>&1 ||
    { tail "$cache/bench.log" >&2; die "building the benchmark's image: see $cache/bench.log"; }
  docker save -o "$out.part" hakobune-bench/system
  mv "$out.part" "$out"
}

alone bench build
echo "$out"
