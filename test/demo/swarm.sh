#!/usr/bin/env bash
# swarm.sh   a system that was lost runs on a swarm of two nodes: their engines pull its images straight from the repository.
#
# Needs root and bin/hakobune (`make swarm` builds it). Starts two private engines for the while, and the distribution's if none
# can be started. It ends with 1 unless the system answers, from both nodes, with what it had in a volume and in a container.
set -euo pipefail
top=$(readlink -f "$(dirname "$0")/../..")
work=$(mktemp -d "${TMPDIR:-/tmp}/hakobune-swarm.XXXXXX")
tell() { printf '\n%s\n' "$*"; }
fail() { printf '\nswarm: %s\n' "$*" >&2; exit 1; }
hakobune() { XDG_CACHE_HOME=$work/cache XDG_STATE_HOME=$work/state "$top/bin/hakobune" "$@"; }
serving='' certificates=''

clean() {
  local code=$?
  trap - EXIT INT TERM
  [ -z "$serving" ] || kill "$serving" 2>/dev/null || true
  [ -z "$certificates" ] || rm -rf "$certificates"
  "$top/test/setup/engines.sh" down "$work/e" 2>/dev/null || true
  rm -rf --one-file-system "$work"
  exit $code
}
trap clean EXIT
trap 'exit 130' INT TERM

# until_so SECONDS COMMAND... waits until a command succeeds.
until_so() {
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || return 1
    sleep 0.3
  done
}

"$top/test/setup/engines.sh" up "$work/e" e29c e29g
manager() { docker -H "unix://$work/e/e29c/docker.sock" "$@"; }
worker() { docker -H "unix://$work/e/e29g/docker.sock" "$@"; }
one=$(<"$work/e/e29c/address") two=$(<"$work/e/e29g/address")
here=$(ip -o route get "$one" | sed -n 's/.* src \([0-9.]*\).*/\1/p')
export DOCKER_CONFIG=$work/docker HAKOBUNE_REPOSITORY=$work/repository HAKOBUNE_PASSWORD_FILE=$work/password
echo "a password that nobody guesses" >"$work/password"

tell "A system at home: what web shows comes from db, which has a volume and a change of its own."
mkdir -p "$work/root/bin" "$work/root/dev" "$work/root/proc" "$work/root/sys" "$work/root/etc"
cp /bin/busybox "$work/root/bin/"
for applet in sh nc cat; do ln -s busybox "$work/root/bin/$applet"; done
tar -C "$work/root" -c . | manager import - tiny:1 >/dev/null
manager network create shop_net >/dev/null
start() { manager run -d --name "shop-$1" --network shop_net --network-alias "$1" --stop-signal KILL -l com.docker.compose.project=shop -l "com.docker.compose.service=$1" "${@:2}" >/dev/null; }
start db -v shop_data:/data tiny:1 sh -c 'test -e /own || { echo rows >/data/rows; echo change >/own; }; exec nc -ll -p 9000 -e cat /data/rows /own'
start web -p 18088:18088 tiny:1 nc -ll -p 18088 -e nc db 9000
answers() { [ "$(timeout 5 bash -c "cat </dev/tcp/$one/18088" 2>/dev/null)" = $'rows\nchange' ]; }
until_so 30 answers || fail "the system does not answer at home"

tell "It is backed up, and lost."
hakobune init --argon2-memory 19MiB 2>/dev/null
DOCKER_HOST=unix://$work/e/e29c/docker.sock hakobune backup --quiet shop
manager rm -fv shop-db shop-web >/dev/null
manager volume rm shop_data >/dev/null
manager network rm shop_net >/dev/null
manager rmi tiny:1 >/dev/null

tell "Two nodes make a swarm; one gets the volume; both pull from the repository."
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout "$work/key.pem" -out "$work/cert.pem" -subj "/CN=$here" -addext "subjectAltName=IP:$here" 2>/dev/null
XDG_CACHE_HOME=$work/cache "$top/bin/hakobune" registry serve --insecure --listen "$here:0" --tls-cert "$work/cert.pem" --tls-key "$work/key.pem" >"$work/serving" 2>"$work/serving.err" &
serving=$!
until_so 30 test -s "$work/serving" || fail "registry serve says nothing"
registry=$(sed -n 's/^serving on \([0-9.:]*\);.*/\1/p' "$work/serving")
certificates=/etc/docker/certs.d/$registry
mkdir -p "$certificates"
cp "$work/cert.pem" "$certificates/ca.crt"
manager swarm init --advertise-addr "$one" >/dev/null
worker swarm join --token "$(manager swarm join-token -q worker)" --advertise-addr "$two" "$one:2377"
DOCKER_HOST=unix://$work/e/e29g/docker.sock hakobune restore --only volumes shop
# Their engines are on one host here, so nodes are told apart by their ids, not by host names.
hakobune compose --stack --registry "$registry" --constraint "db=node.id==$(worker info -f '{{.Swarm.NodeID}}')" \
  --constraint "web=node.id==$(manager info -f '{{.Swarm.NodeID}}')" -o "$work/stack.yaml" shop
begun=$SECONDS
manager stack deploy --detach=true -c "$work/stack.yaml" shop
until_so 120 answers || { manager stack ps shop --no-trunc; fail "the stack does not answer"; }
tell "It answers $((SECONDS - begun)) s after docker stack deploy:"
manager stack ps shop --format '{{.Name}}  {{.Image}}  {{.CurrentState}}'
[ "$(worker ps -q | wc -l)" = 1 ] && [ "$(manager ps -q | wc -l)" = 1 ] || fail "it does not run on both nodes"
manager stack rm shop >/dev/null
