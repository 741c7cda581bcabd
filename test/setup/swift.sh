#!/usr/bin/env bash
# swift.sh up DIR     brings OpenStack Swift with its S3 API up, all in one, from the distribution's packages
# swift.sh down DIR   ends it and removes its data
#
# It listens on the loopback interface only, on ports that were free, and keeps everything under DIR, which must support
# user xattrs. `. DIR/env` lets tests find it: HAKOBUNE_TEST_SWIFT=127.0.0.1:PORT; the access key is test:tester, the secret
# testing. One replica on one directory; no replicators or auditors, which have nothing to do then. `up` again changes
# nothing that is up. `down` ends only processes started here, known by their pid files and by DIR.
. "$(dirname "$(readlink -f "$0")")/lib.sh"

[ $# = 2 ] || die "usage: swift.sh up DIR | swift.sh down DIR"
dir=$(readlink -m "$2")
daemons=(memcached account-server container-server object-server proxy-server object-updater)

# packages installs what is missing. The services would listen on all interfaces.
packages() {
  command -v swift-proxy-server >/dev/null && command -v memcached >/dev/null && command -v swift-object-server >/dev/null && return
  need swift-ring-builder:swift swift-proxy-server:swift-proxy swift-account-server:swift-account \
    swift-container-server:swift-container swift-object-server:swift-object memcached:memcached
  if [ -d /run/systemd/system ]; then # nor after the next boot
    systemctl disable -q memcached swift-{proxy,account,container,object} swift-{account,container,object}-{auditor,replicator} \
      swift-account-reaper swift-container-{reconciler,sharder,sync,updater} swift-object-{reconstructor,updater} 2>/dev/null || true
  fi
}

# ports chooses a free one for each server: memcached, account, container, object, proxy.
ports() {
  [ -s "$dir/ports" ] || python3 - >"$dir/ports" <<-'PYTHON'
	import socket
	s = [socket.socket() for _ in range(5)]
	for x in s: x.bind(("127.0.0.1", 0))
	print(*[x.getsockname()[1] for x in s])
	PYTHON
}

# conf NAME PORT writes NAME.conf, with what stands on stdin after what all have in common.
conf() {
  { cat <<-CONF
	[DEFAULT]
	swift_dir = $dir
	devices = $dir/srv
	mount_check = false
	bind_ip = 127.0.0.1
	bind_port = $2
	workers = 0
	user = $(id -un)
	log_name = $1
	log_level = WARNING
	log_address = $dir/no-syslog
	disable_fallocate = true
	fallocate_reserve = 0
	CONF
    cat
  } >"$dir/$1.conf"
}

configure() {
  local cache account container object proxy ring
  read -r cache account container object proxy <"$dir/ports"
  mkdir -p "$dir/srv/d1" "$dir/recon"
  # Names are hashed with this; it may be known, since nothing but tests is kept here.
  printf '[swift-hash]\nswift_hash_path_prefix = hakobune\nswift_hash_path_suffix = test\n' >"$dir/swift.conf"
  for ring in account:$account container:$container object:$object; do
    [ ! -e "$dir/${ring%:*}.ring.gz" ] || continue
    swift-ring-builder "$dir/${ring%:*}.builder" create 6 1 0 >"$dir/ring.log"
    swift-ring-builder "$dir/${ring%:*}.builder" add "r1z1-127.0.0.1:${ring#*:}/d1" 1 >>"$dir/ring.log"
    swift-ring-builder "$dir/${ring%:*}.builder" rebalance >>"$dir/ring.log"
  done
  conf account-server "$account" <<-CONF
	[pipeline:main]
	pipeline = account-server
	[app:account-server]
	use = egg:swift#account
	CONF
  conf container-server "$container" <<-CONF
	[pipeline:main]
	pipeline = container-server
	[app:container-server]
	use = egg:swift#container
	CONF
  conf object-server "$object" <<-CONF
	[pipeline:main]
	pipeline = object-server
	[app:object-server]
	use = egg:swift#object
	CONF
  conf object-updater 0 <<-CONF
	[object-updater]
	interval = 5
	recon_cache_path = $dir/recon
	CONF
  conf proxy-server "$proxy" <<-CONF
	[pipeline:main]
	pipeline = catch_errors gatekeeper healthcheck cache listing_formats s3api tempauth proxy-server
	[app:proxy-server]
	use = egg:swift#proxy
	account_autocreate = true
	[filter:catch_errors]
	use = egg:swift#catch_errors
	[filter:gatekeeper]
	use = egg:swift#gatekeeper
	[filter:healthcheck]
	use = egg:swift#healthcheck
	[filter:cache]
	use = egg:swift#memcache
	memcache_servers = 127.0.0.1:$cache
	[filter:listing_formats]
	use = egg:swift#listing_formats
	[filter:s3api]
	use = egg:swift#s3api
	location = us-east-1
	allow_multipart_uploads = false
	[filter:tempauth]
	use = egg:swift#tempauth
	user_test_tester = testing .admin
	CONF
}

# mine NAME prints the process of a daemon if it still is one of this set-up: a number may have gone to another.
mine() {
  local pid
  pid=$(cat "$dir/$1.pid" 2>/dev/null) && [ -n "$pid" ] && tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF "$dir/" && echo "$pid"
}

# launch NAME COMMAND... starts a daemon unless it runs.
launch() {
  local name=$1
  shift
  mine "$name" >/dev/null && return
  setsid "$@" >"$dir/$name.log" 2>&1 </dev/null &
  echo $! >"$dir/$name.pid"
}

healthy() { [ "$(curl -fs --max-time 5 "http://127.0.0.1:$1/healthcheck")" = OK ]; }

# listens PORT: does a server accept connections there?
listens() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

up() {
  [ "$(id -u)" = 0 ] || die "Swift's packages and its xattrs need root"
  need python3:python3 curl:curl
  alone packages packages
  mkdir -p "$dir"
  ports
  configure
  local cache account container object proxy name
  read -r cache account container object proxy <"$dir/ports"
  install -d -o nobody "$dir/memcached" # names DIR in its arguments, by which it is known
  launch memcached memcached -l 127.0.0.1 -p "$cache" -m 64 -u nobody -P "$dir/memcached/pid"
  for name in "${daemons[@]:1}"; do
    launch "$name" "swift-$name" "$dir/$name.conf"
  done
  for name in "$cache" "$account" "$container" "$object" "$proxy"; do
    within 30 listens "$name" || die "nobody listens on port $name; see $dir/*.log"
  done
  within 30 healthy "$proxy" || die "the proxy does not answer; see $dir/proxy-server.log"
  echo "export HAKOBUNE_TEST_SWIFT=127.0.0.1:$proxy" >"$dir/env"
  say "up: Swift at 127.0.0.1:$proxy, under $dir"
}

down() {
  local name pid
  for name in "${daemons[@]}"; do
    pid=$(mine "$name") || continue
    kill "$pid" 2>/dev/null || continue
    within 10 dead "$pid" || kill -9 "$pid" 2>/dev/null || true
  done
  [ ! -e "$dir/swift.conf" ] || rm -rf --one-file-system "$dir"
  say "down: $dir"
}

dead() { ! kill -0 "$1" 2>/dev/null || grep -q '^State:.Z' "/proc/$1/status" 2>/dev/null; }

case $1 in
  up) up ;;
  down) down ;;
  *) die "usage: swift.sh up DIR | swift.sh down DIR" ;;
esac
