#!/usr/bin/env bash
# lab.sh up DIR     brings up all that the tests run against: builds what is missing, then engines and servers under DIR
# lab.sh down DIR   ends it and removes its data
#
# `. DIR/env` then lets plain `go test` find everything:
#   HAKOBUNE_TEST_LAB                        DIR: run.sh, and so make, uses it
#   HAKOBUNE_TEST_DOCKER_E20, _E29C, _E29G   the engines, unix:///...
#   HAKOBUNE_TEST_ADDRESS_E20, _E29C, _E29G  where their published ports answer, from this host
#   HAKOBUNE_TEST_IMAGES                     the directory of app.tar, web.tar, db.tar, as `docker save` writes them
#   HAKOBUNE_TEST_COMPOSE                    docker-compose, a current one
#   HAKOBUNE_TEST_SWIFT                      OpenStack Swift's S3 API, host:port
#   PATH                                     begins with minio and versitygw, which the tests start themselves
# and HAKOBUNE_TEST_REQUIRE=1: where something is missing, tests fail.
. "$(dirname "$(readlink -f "$0")")/lib.sh"

[ $# = 2 ] || die "usage: lab.sh up DIR | lab.sh down DIR"
setup=$(dirname "$(readlink -f "$0")")
dir=$(readlink -m "$2")

# On a bare machine one half compiles while the other waits for a package mirror.
compiled() { "$setup/tools.sh" && "$setup/engines.sh" up "$dir/e"; }
installed() { "$setup/images.sh" >"$dir/images" && "$setup/swift.sh" up "$dir/swift"; }

up() {
  local built name upper half failed=
  need curl:curl /bin/busybox:busybox-static
  mkdir -p "$dir"
  compiled & half=$!
  installed || failed=1
  wait $half || failed=1
  [ -z "$failed" ] || die "the lab is not whole: what is missing, the lines above say"
  built=$(cat "$dir/images")
  rm "$dir/images"
  {
    echo "export HAKOBUNE_TEST_LAB=$dir"
    echo "export HAKOBUNE_TEST_REQUIRE=1"
    for name in e20 e29c e29g; do
      upper=${name^^}
      echo "export HAKOBUNE_TEST_DOCKER_$upper=unix://$dir/e/$name/docker.sock"
      echo "export HAKOBUNE_TEST_ADDRESS_$upper=$(cat "$dir/e/$name/address")"
    done
    echo "export HAKOBUNE_TEST_IMAGES=$built"
    echo "export HAKOBUNE_TEST_COMPOSE=$tools/docker-compose"
    cat "$dir/swift/env"
    echo "export PATH=$tools:\$PATH"
  } >"$dir/env"
}

# Nothing that fails to end keeps the rest from being ended.
down() {
  local failed=
  "$setup/swift.sh" down "$dir/swift" || failed=1
  "$setup/engines.sh" down "$dir/e" || failed=1
  rm -f "$dir/env" "$dir/images"
  rmdir "$dir" 2>/dev/null || true
  [ -z "$failed" ]
}

case $1 in
  up) up ;;
  down) down ;;
  *) die "usage: lab.sh up DIR | lab.sh down DIR" ;;
esac
