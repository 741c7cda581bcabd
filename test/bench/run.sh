#!/usr/bin/env bash
# run.sh [FLAG...] [SCENARIO...]   hakobune beside what else is used, on the same data, in one run; all scenarios if none is named
#
# Builds what is compared and the system that is backed up, brings a private engine up (ENGINE, else e20), runs the program beside this
# script, which tells its flags with -help, and ends the engine. HAKOBUNE is the program to measure; else one is built from here.
. "$(dirname "$(readlink -f "$0")")/../setup/lib.sh"

here=$(dirname "$(readlink -f "$0")")
need curl:curl /bin/busybox:busybox-static
command -v docker >/dev/null || need docker:docker-cli
"$here/../setup/tools.sh"
peers=$("$here/peers.sh")
image=$("$here/image.sh")

work=$(mktemp -d "${TMPDIR:-/tmp}/hakobune-bench.XXXXXX")
trap '"$here/../setup/engines.sh" down "$work/e"; rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
"$here/../setup/engines.sh" up "$work/e" "${ENGINE:-e20}"
go -C "$here" build -o "$work/bench" .
[ -n "${HAKOBUNE:-}" ] || CGO_ENABLED=0 go -C "$here" build -trimpath -ldflags '-s -w' -o "$work/hakobune" ../../cmd/hakobune
PATH=$peers:$tools:$PATH HAKOBUNE=${HAKOBUNE:-$work/hakobune} \
  "$work/bench" -work "$work" -engine "$work/e/${ENGINE:-e20}" -image "$image" -setup "$here/../setup" "$@"
