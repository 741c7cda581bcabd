#!/usr/bin/env bash
# engines.sh up DIR [NAME...]   brings private Docker engines up: e20 e29c e29g, or those named
# engines.sh down DIR           ends them and removes their data
#
#   e20    the distribution's docker.io (20.10 on Debian 12), overlay2
#   e29c   moby 29, containerd image store, the default of a new engine
#   e29g   the same, overlay2
#   local  as e20, but in this host's network, with a bridge of its own and no iptables: to build images
#
# The first three are hosts of their own: their own network namespace (so docker0, iptables and ports), a data root under
# DIR, its socket at DIR/NAME/docker.sock, its address in DIR/NAME/address. Namespaces and the bridge that joins them to this
# host are named by DIR, so several set-ups live side by side, and next to an engine of this host, without meeting.
# `up` again changes nothing that is up. `down` ends only processes started here, known by their pid files and by DIR.
#
# Two things not to do: `ip netns exec` mounts /sys anew and hides the cgroups (so nsenter); and dockerd --bridge=none in
# the host's own namespace deletes the docker0 of whichever engine is there.
. "$(dirname "$(readlink -f "$0")")/lib.sh"

moby=v2.0.0-beta.24
containerd=v2.4.2
runc=v1.4.3 # Debian 12's 1.1.5 lacks the time namespace that moby 29 asks for

usage() { die "usage: engines.sh up DIR [e20] [e29c] [e29g] [local] | engines.sh down DIR"; }
[ $# -ge 2 ] || usage
verb=$1
dir=$(readlink -m "$2")
shift 2
# The longest path made here is that of containerd's socket, and a socket's path has room for 107 bytes.
[ ${#dir} -le 60 ] || die "the path $dir is too long for sockets below it"
tag=hk$(printf %s "$dir" | cksum | cut -d' ' -f1 | xargs printf '%08x' | cut -c1-6)

binaries() {
  fetch "$engine" dockerd github.com/moby/moby/v2/cmd/dockerd@$moby
  fetch "$engine" docker-proxy github.com/moby/moby/v2/cmd/docker-proxy@$moby
  fetch "$engine" containerd github.com/containerd/containerd/v2/cmd/containerd@$containerd
  fetch "$engine" containerd-shim-runc-v2 github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2@$containerd
  fetch "$engine" runc github.com/opencontainers/runc@$runc -tags seccomp
}

# cgroups mounts the controllers where nobody has, as in a machine without systemd.
cgroups() {
  mountpoint -q /sys/fs/cgroup && return
  mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
  local c
  for c in cpu cpuacct cpuset memory devices freezer blkio pids; do
    mkdir -p /sys/fs/cgroup/$c
    mount -t cgroup -o $c cgroup /sys/fs/cgroup/$c || rmdir /sys/fs/cgroup/$c
  done
}

# bridge makes this set-up's bridge, on the first 10.98.N.0/24 that nobody on this machine has.
bridge() {
  ip link show "$tag" >/dev/null 2>&1 && return
  local n
  for n in $(seq 254); do
    ip -4 -o addr | grep -q " 10\.98\.$n\." || ip -4 route | grep -q "^10\.98\.$n\." || break
  done
  echo "10.98.$n" >"$dir/net"
  ip link add "$tag" type bridge
  ip addr add "10.98.$n.1/24" dev "$tag"
  ip link set "$tag" up
}

# namespace NAME HOST gives an engine its network, with the address of that number on the bridge.
namespace() {
  local ns=$tag-$1 net
  net=$(cat "$dir/net")
  echo "$net.$2" >"$dir/$1/address"
  [ ! -e "/run/netns/$ns" ] || return 0
  ip netns add "$ns"
  ip link add "$tag.$2" type veth peer name eth0 netns "$ns"
  ip link set "$tag.$2" master "$tag" up
  nsenter --net="/run/netns/$ns" sh -c "ip link set lo up; ip addr add $net.$2/24 dev eth0; ip link set eth0 up; ip route add default via $net.1"
}

# start NAME HOST [FLAG...] starts an engine in its namespace, a modern one behind its own containerd.
start() {
  local name=$1 root=$dir/$1 host=$2
  shift 2
  mkdir -p "$root/data" "$root/exec"
  local in=()
  if [ "$name" != local ]; then
    namespace "$name" "$host"
    in=(nsenter --net="/run/netns/$tag-$name")
  fi
  answers "$root/docker.sock" && return
  halt "$root" # one that hangs, or what is left of one that was killed
  echo '{}' >"$root/daemon.json" # else /etc/docker/daemon.json would speak here
  local flags=(--config-file "$root/daemon.json" -H "unix://$root/docker.sock" --data-root "$root/data"
    --exec-root "$root/exec" --pidfile "$root/docker.pid" --shutdown-timeout 5)
  if [[ $name != e29* ]]; then
    # Where the host runs a containerd dockerd uses that one; not with the names of an engine that may be the host's own.
    [ ! -S /run/containerd/containerd.sock ] || flags+=(--containerd-namespace "$tag-$name" --containerd-plugins-namespace "$tag-$name-plugins")
    PATH=/usr/sbin:/usr/bin:/sbin:/bin setsid "${in[@]}" dockerd "${flags[@]}" "$@" >"$root/log" 2>&1 </dev/null &
  else
    containerd_up "$name" "$root"
    PATH=$engine:$PATH setsid "${in[@]}" "$engine/dockerd" "${flags[@]}" --containerd "$root/containerd.sock" "$@" >"$root/log" 2>&1 </dev/null &
  fi
  within 60 answers "$root/docker.sock" || { tail -5 "$root/log" >&2; die "$name does not answer; see $root/log"; }
}

containerd_up() {
  local name=$1 root=$2
  cat >"$root/containerd.toml" <<-TOML
	version = 3
	root = "$root/cd"
	state = "$root/cs"
	disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"]
	[grpc]
	address = "$root/containerd.sock"
	[ttrpc]
	address = "$root/containerd.sock.ttrpc"
	TOML
  PATH=$engine:$PATH setsid nsenter --net="/run/netns/$tag-$name" "$engine/containerd" --config "$root/containerd.toml" >"$root/containerd.log" 2>&1 </dev/null &
  echo $! >"$root/containerd.pid"
  within 30 test -S "$root/containerd.sock" || { tail -5 "$root/containerd.log" >&2; die "containerd of $name does not start"; }
}

up() {
  [ "$(id -u)" = 0 ] || die "engines need root"
  local names=("$@") name
  [ ${#names[@]} -gt 0 ] || names=(e20 e29c e29g)
  need dockerd:docker.io iptables:iptables ip:iproute2 curl:curl nsenter:util-linux
  if [[ ${names[*]} == *e29* ]]; then
    need gcc:gcc pkg-config:pkg-config /usr/include/stdlib.h:libc6-dev /usr/include/seccomp.h:libseccomp-dev
    alone engine binaries
  fi
  mkdir -p "$dir"
  cgroups
  alone net bridge
  for name in "${names[@]}"; do
    case $name in
      e20) start e20 11 ;;
      e29c) start e29c 12 --feature containerd-snapshotter=true ;;
      local) start local 1 --bridge "$tag" --fixed-cidr "$(cat "$dir/net").128/25" --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false ;;
      e29g) start e29g 13 --feature containerd-snapshotter=false --storage-driver overlay2 ;;
      *) usage ;;
    esac
  done
  say "up: ${names[*]} under $dir, on $(cat "$dir/net").0/24"
}

# mine PIDFILE prints the process of a pid file if it still is one of this set-up: a number may have gone to another.
mine() {
  local pid
  pid=$(cat "$1" 2>/dev/null) && [ -n "$pid" ] && tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF "$dir/" && echo "$pid"
}

# end PIDFILE asks the process to end, and after 20 seconds makes it.
end() {
  local pid
  pid=$(mine "$1") || return 0
  kill "$pid" 2>/dev/null || return 0
  within 20 dead "$pid" || kill -9 "$pid" 2>/dev/null || true
}

# halt ends an engine, and its containerd, which e20 starts itself.
halt() {
  end "$1/docker.pid"
  end "$1/exec/containerd/containerd.pid"
  end "$1/containerd.pid"
  rm -f "$1/docker.pid" "$1/exec/containerd/containerd.pid" "$1/containerd.pid"
}

dead() { ! kill -0 "$1" 2>/dev/null || grep -q '^State:.Z' "/proc/$1/status" 2>/dev/null; }

# shims ends what a killed engine left: the shims that serve its directory or its namespace of containerd, and what they run.
shims() {
  local p
  { grep -lsa -e "$1/" -e "$tag-${1##*/}" /proc/[0-9]*/cmdline || true; } | cut -d/ -f3 | while read -r p; do
    tr '\0' ' ' 2>/dev/null <"/proc/$p/cmdline" | grep -q '^[^ ]*containerd-shim' || continue
    # shellcheck disable=SC2046 # a list of numbers
    kill -9 $(cat "/proc/$p/task/$p/children" 2>/dev/null) "$p" 2>/dev/null || true
  done
}

# cgroups_of removes what is left of a killed engine's containers there.
cgroups_of() {
  local c
  for c in "$1"/data/containers/*; do
    rmdir /sys/fs/cgroup/*/docker/"${c##*/}" /sys/fs/cgroup/docker/"${c##*/}" 2>/dev/null || true
  done
}

down() {
  local name root m
  for name in e20 e29c e29g local; do
    root=$dir/$name
    if [ -d "$root" ]; then
      halt "$root"
      shims "$root"
      cgroups_of "$root"
      awk -v below="$root/" 'index($5, below) == 1 { print $5 }' /proc/self/mountinfo | sort -r | while read -r m; do umount -l "$m"; done
      rm -rf --one-file-system "$root"
    fi
    ip netns del "$tag-$name" 2>/dev/null || true
  done
  ip link del "$tag" 2>/dev/null || true
  rm -f "$dir/net"
  rmdir "$dir" 2>/dev/null || true
  say "down: $dir"
}

case $verb in
  up) up "$@" ;;
  down) down ;;
  *) usage ;;
esac
