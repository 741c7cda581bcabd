#!/usr/bin/env bash
# tools.sh   builds the servers and programs that tests run against into the cache, once for each pinned version.
. "$(dirname "$(readlink -f "$0")")/lib.sh"

setup=$(dirname "$(readlink -f "$0")")
compose=v5.6.0

# Compose's own module cannot be installed by version, so the one beside this script pins it.
compose() {
  local stamp=$tools/.docker-compose
  [ -x "$tools/docker-compose" ] && [ "$(cat "$stamp" 2>/dev/null)" = $compose ] && return
  say "building docker-compose $compose"
  go -C "$setup/compose" build -ldflags "-s -w -X github.com/docker/compose/v5/internal.Version=$compose" \
    -o "$tools/docker-compose" github.com/docker/compose/v5/cmd 2>"$cache/docker-compose.log" || die "docker-compose: see $cache/docker-compose.log"
  echo $compose >"$stamp"
}

build() {
  fetch "$tools" minio github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c
  fetch "$tools" versitygw github.com/versity/versitygw/cmd/versitygw@v1.8.0
  fetch "$tools" conformance github.com/opencontainers/distribution-spec/conformance@v0.0.0-20260831232431-97274622c111
  compose
}

alone tools build
