# Sourced by the scripts beside it; does nothing by itself.
# shellcheck shell=bash
set -euo pipefail

cache=${HAKOBUNE_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hakobune-test}
tools=$cache/bin       # what tests run: minio, versitygw, docker-compose
engine=$cache/engine   # what the modern engines are made of; never in a test's PATH
images=$cache/images   # the test images, as `docker save` writes them
mkdir -p "$tools" "$engine" "$images"

say() { echo "setup: $*" >&2; }
die() { say "$*"; exit 1; }

# need COMMAND:PACKAGE... installs the packages whose command (or file, if it begins with /) is missing. Services that the
# packages would start stay down: what is wanted here is started here.
need() {
  local missing=() pair
  for pair in "$@"; do
    case $pair in
      /*) [ -e "${pair%%:*}" ] || missing+=("${pair#*:}") ;;
      *) command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}") ;;
    esac
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || die "not root; please install: ${missing[*]}"
  command -v apt-get >/dev/null || die "no apt-get here; please install: ${missing[*]}"
  say "installing ${missing[*]}"
  alone apt install_packages "${missing[@]}"
}

install_packages() (
  guard=/usr/sbin/policy-rc.d
  if [ ! -e $guard ]; then
    trap 'rm -f $guard' EXIT
    printf '#!/bin/sh\nexit 101\n' >$guard
    chmod +x $guard
  fi
  apt-get update -q >"$cache/apt.log" 2>&1 || die "apt-get update: see $cache/apt.log"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >>"$cache/apt.log" 2>&1 </dev/null ||
    die "apt-get install $*: see $cache/apt.log"
)

# fetch DIRECTORY NAME MODULE@VERSION [BUILD FLAG...] builds a program through the module proxy, once for each version.
fetch() {
  local dir=$1 name=$2 module=$3
  shift 3
  [ -x "$dir/$name" ] && [ "$(cat "$dir/.$name" 2>/dev/null)" = "$module" ] && return
  say "building $name: $module"
  GOBIN=$dir go install -ldflags '-s -w' "$@" "$module" 2>"$cache/$name.log" || die "go install $module: see $cache/$name.log"
  echo "$module" >"$dir/.$name"
}

# alone LOCK COMMAND... runs a function while no other set-up on this machine does the same.
alone() {
  local lock=$cache/$1.lock
  shift
  (flock 9; "$@" 9>&-) 9>"$lock"
}

# answers SOCKET: does an engine answer there?
answers() { curl -fs --max-time 5 --unix-socket "$1" http://engine/_ping >/dev/null 2>&1; }

# within SECONDS COMMAND... waits until the command succeeds.
within() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ $SECONDS -lt $end ] || return 1
    sleep 0.1
  done
}
