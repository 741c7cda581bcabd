#!/usr/bin/env bash
# peers.sh   builds what the benchmark compares with into a directory of the cache, once for each pinned version, and prints it.
#            What cannot be had is said and left out; restic and borg come from the distribution then.
. "$(dirname "$(readlink -f "$0")")/../setup/lib.sh"

peers=$cache/peers
mkdir -p "$peers"

# The newest of restic and kopia that module proxies serve with what verifies them.
kopia=v0.22.3

build() {
  try fetch "$peers" registry github.com/distribution/distribution/v3/cmd/registry@v3.1.2
  try fetch "$peers" restic github.com/restic/restic/cmd/restic@v0.18.1
  [ -x "$peers/restic" ] || try need restic:restic
  try fetch_kopia
  try need borg:borgbackup
}

# fetch_kopia builds it in its own module, since `go install` asks for a list of versions that is not served everywhere.
fetch_kopia() {
  local stamp=$peers/.kopia module=github.com/kopia/kopia@$kopia dir
  [ -x "$peers/kopia" ] && [ "$(cat "$stamp" 2>/dev/null)" = $module ] && return
  say "building kopia: $module"
  dir=$(cd / && go mod download -json $module | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p') && [ -n "$dir" ] || return
  go -C "$dir" build -ldflags '-s -w' -o "$peers/kopia" . 2>"$cache/kopia.log" || die "kopia: see $cache/kopia.log"
  echo $module >"$stamp"
}

# try COMMAND... goes on without what cannot be had; the program beside this then leaves its column out, and says so.
try() { ("$@") || say "left out: $*"; }

alone peers build
echo "$peers"
