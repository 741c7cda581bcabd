#!/usr/bin/env bash
# demo.sh   Hakobune's story on one machine, in about a minute: a system of two containers is backed up, lost, and brought back.
#
# Needs root, Go, and bin/hakobune (`make demo` builds it). With a Docker engine on this machine it uses that one, and touches
# nothing there that it has not made: all names carry a random mark. Without one it starts a private engine for the while,
# and installs the distribution's if there is none to start.
set -euo pipefail
top=$(readlink -f "$(dirname "$0")/../..")
work=$(mktemp -d "${TMPDIR:-/tmp}/hakobune-demo.XXXXXX")
mark=demo-$(od -An -N3 -tx1 /dev/urandom | tr -d ' \n') # the name of the system, and in the names of all that is its own
image=hakobune-$mark
address=127.0.0.1
repository=$work/repository
password=$work/password

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' dim='' plain=''; fi
exec 3>&1
chapter() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
tell() { printf '%s\n' "$*"; }
fail() { printf '\ndemo: %s\n' "$*" >&2; exit 1; }
# show COMMAND... prints a command as a person would type it, and runs it.
show() {
  local line='' word
  for word in "${@//$work/\$DEMO}"; do
    case $word in *' '*) word="'$word'" ;; esac
    line+=" $word"
  done
  printf '%s$%s%s\n' "$dim" "$line" "$plain" >&3
  "$@"
}
# hakobune keeps its cache and state with everything else of this demo.
hakobune() { XDG_CACHE_HOME=$work/cache XDG_STATE_HOME=$work/state "$top/bin/hakobune" "$@"; }

# ours KIND lists what is named by the mark: containers, volumes, networks or images.
ours() {
  case $1 in
    container) docker ps -aq --filter "name=^/?$mark-" ;;
    volume) docker volume ls -q --filter "name=$mark-" ;;
    network) docker network ls -q --filter "name=$mark-" ;;
    image) docker images --format '{{.Repository}}:{{.Tag}}' | grep -F "$mark" ;;
  esac || true
}

# remove takes away everything of the demo on the engine, and nothing else.
remove() {
  local kind own
  for kind in container volume network image; do
    mapfile -t own < <(ours $kind)
    [ ${#own[@]} -eq 0 ] || docker "$kind" rm -f "${own[@]}" >/dev/null 2>&1 || docker "$kind" rm "${own[@]}" >/dev/null
  done
}

clean() {
  local code=$?
  trap - EXIT INT TERM
  chapter "Cleaning up"
  if [ -n "${DOCKER_HOST:-}" ] || docker version >/dev/null 2>&1; then remove || true; fi
  [ ! -d "$work/engine" ] || "$top/test/setup/engines.sh" down "$work/engine" 2>/dev/null
  rm -rf --one-file-system "$work"
  tell "Nothing of the demo is left."
  exit $code
}

engine() {
  chapter "1. A Docker engine"
  if docker version >/dev/null 2>&1; then
    tell "Docker $(docker version --format '{{.Server.Version}}') runs here; the demo's own things in it are named $mark-*."
    return
  fi
  tell "None runs here, so a private one is started and ended with the demo. (What is missing is installed first.)"
  "$top/test/setup/engines.sh" up "$work/engine" e20 2>"$work/engine.log" || { cat "$work/engine.log" >&2; fail "no Docker engine could be started"; }
  export DOCKER_HOST=unix://$work/engine/e20/docker.sock
  address=$(cat "$work/engine/e20/address")
  command -v docker >/dev/null || apt-get install -y -q docker-cli >/dev/null
  tell "Docker $(docker version --format '{{.Server.Version}}') runs, in a network of its own."
}

# free prints a port where nobody listens.
free() {
  local port
  while :; do
    port=$((RANDOM % 20000 + 20000))
    (: <"/dev/tcp/$address/$port") 2>/dev/null || break
  done
  echo $port
}

# healthy NAME waits until a container is.
healthy() {
  local end=$((SECONDS + 60))
  while [ $SECONDS -lt $end ]; do
    [ "$(docker inspect -f '{{.State.Health.Status}}' "$1" 2>/dev/null)" != healthy ] || return 0
    sleep 0.2
  done
  docker logs "$1" >&2 || true
  fail "$1 is not healthy after a minute"
}

look() { curl -fsS --max-time 10 "http://$address:$port/"; }
sign() { curl -fsS --max-time 10 -d "$1" "http://$address:$port/"; }

system() {
  chapter "2. A system: a guestbook of two containers"
  tell "Its image, from nothing but a static program (in a moment, from Go):"
  mkdir "$work/root"
  CGO_ENABLED=0 go build -C "$top" -trimpath -ldflags '-s -w' -o "$work/root/guestbook" ./test/demo/guestbook
  tar -C "$work/root" -c guestbook | docker import \
    --change 'ENTRYPOINT ["/guestbook"]' \
    --change 'HEALTHCHECK --interval=1s --timeout=5s --retries=10 CMD ["/guestbook", "healthy"]' - "$image" >/dev/null
  docker images "$image" --format '{{.Repository}}  {{.Size}}'
  port=$(free)
  tell
  tell "The store keeps the entries in a volume. The web server asks it by its name in a network of their own, and counts its"
  tell "visitors in a file in its own layer. A label says that both belong to the system $mark:"
  local label=io.github.hakobune-dr.system=$mark
  show docker network create "$mark-net" >/dev/null
  show docker volume create "$mark-data" >/dev/null
  show docker run -d --name "$mark-store" --label "$label" --network "$mark-net" -v "$mark-data:/data" --restart unless-stopped \
    "$image" store /data >/dev/null
  show docker run -d --name "$mark-web" --label "$label" --network "$mark-net" -p "$address:$port:8080" --restart unless-stopped \
    -e "GUESTBOOK_TITLE=The guestbook of $(hostname)" "$image" web "http://$mark-store:8080" >/dev/null
  healthy "$mark-store"
  healthy "$mark-web"
  sign "Noah was here"
  sign "So were two of everything"
  look >/dev/null
  tell
  tell "It is healthy, and two visitors have signed. http://$address:$port says:"
  look | tee "$work/before"
}

backup() {
  chapter "3. Backup"
  tell "A repository in a directory (in earnest: an S3 bucket far away), sealed with a password:"
  (umask 077; head -c 24 /dev/urandom | base64 >"$password")
  show hakobune -r "$repository" -p "$password" init
  tell
  tell "The whole system, while it runs: image, own changes, volume, network, configuration."
  show hakobune -r "$repository" -p "$password" backup "$mark"
  tell
  show hakobune -r "$repository" -p "$password" snapshots
}

disaster() {
  chapter "4. Disaster"
  tell "Containers, volume, network and image are removed. Nothing of the system is left on this engine:"
  remove
  tell "  containers: $(ours container | wc -l), volumes: $(ours volume | wc -l), networks: $(ours network | wc -l), images: $(ours image | wc -l)"
  [ -z "$(ours container)$(ours volume)$(ours network)$(ours image)" ] || fail "something is left of $mark"
  if look >/dev/null 2>&1; then fail "the guestbook still answers"; fi
  tell "  http://$address:$port does not answer."
}

restore() {
  chapter "5. Restore"
  tell "With the repository and its password, and nothing else:"
  local start=$SECONDS
  show hakobune -r "$repository" -p "$password" restore "$mark"
  healthy "$mark-store"
  healthy "$mark-web"
  tell
  tell "Both containers are healthy again, after $((SECONDS - start)) s. http://$address:$port says:"
  look | tee "$work/after"
  diff <(grep -v visitor "$work/before") <(grep -v visitor "$work/after") || fail "the guestbook has changed"
  local n
  n=$(sed -n 's/.*visitor number \([0-9]*\).*/\1/p' "$work/before")
  grep -q "visitor number $((n + 1))<" "$work/after" || fail "the web server has lost count of its visitors"
  tell
  tell "${bold}The title (configuration), the entries (volume) and the count of visitors (own layer) are back.${plain}"
}

[ "$(id -u)" = 0 ] || fail "please run it as root: a container's changes are read from the engine's own directories"
[ -x "$top/bin/hakobune" ] || fail "bin/hakobune is missing; make demo builds it"
case ${DOCKER_HOST:-unix://} in unix://*) ;; *) fail "DOCKER_HOST=$DOCKER_HOST is another machine's engine; the demo stays on this one" ;; esac
command -v curl >/dev/null || { apt-get update -q && apt-get install -y -q --no-install-recommends curl; } >/dev/null
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
tell "${bold}Hakobune: a system in Docker, backed up, lost, and brought back.${plain} \$DEMO is $work."
engine
system
backup
disaster
restore
