#!/usr/bin/env bash
# images.sh   builds the test applications' images, once for each state of their recipe, and prints the directory that
#             holds them as `docker save` wrote them: app.tar, web.tar, db.tar.
#
# No registry is needed: the base is debootstrapped and imported. The builder is a private engine of the moment in this host's
# network (so that apt-get reaches its mirror from a build), with the classic builder, as the distribution's engine brings no other.
. "$(dirname "$(readlink -f "$0")")/lib.sh"

suite=bookworm
setup=$(dirname "$(readlink -f "$0")")
recipe=$(readlink -f "$setup/../apps/courses")
hash=$(cat "$setup/images.sh" "$recipe"/*Dockerfile "$recipe"/*.{sh,php,conf,cnf} | sha256sum | cut -c1-16)
out=$images/$hash

build() {
  [ ! -d "$out" ] || return 0
  [ "$(id -u)" = 0 ] || die "building the images needs root"
  need debootstrap:debootstrap /usr/share/keyrings/debian-archive-keyring.gpg:debian-archive-keyring curl:curl
  work=$(mktemp -d "${TMPDIR:-/tmp}/hakobune-images.XXXXXX")
  trap '"$setup/engines.sh" down "$work/e"; rm -rf --one-file-system "$work"' EXIT
  "$setup/engines.sh" up "$work/e" local
  command -v docker >/dev/null || need docker:docker-cli
  export DOCKER_HOST=unix://$work/e/local/docker.sock DOCKER_BUILDKIT=0
  base
  local image
  rm -rf "${images:?}"/*
  mkdir "$out.part"
  for image in db web app; do
    say "building hakobune-test/$image"
    docker build -q --network host -t "hakobune-test/$image" -f "$recipe/$image.Dockerfile" "$recipe" >"$cache/$image.log" 2>&1 ||
      { tail "$cache/$image.log" >&2; die "building hakobune-test/$image: see $cache/$image.log"; }
    docker save -o "$out.part/$image.tar" "hakobune-test/$image"
  done
  mv "$out.part" "$out"
}

# base imports a minimal system; what packages would add for people to read is left out, now and in the layers above.
base() {
  local root=$work/base tar
  tar=$cache/base-$(sha256sum "$setup/images.sh" | cut -c1-16).tar
  if [ ! -e "$tar" ]; then
    say "bootstrapping $suite"
    rm -f "$cache"/base-*.tar
    debootstrap --variant=minbase "$suite" "$root" >"$cache/debootstrap.log" 2>&1 || die "debootstrap: see $cache/debootstrap.log"
    printf 'path-exclude=/usr/share/%s/*\n' doc man info locale >"$root/etc/dpkg/dpkg.cfg.d/slim"
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod +x "$root/usr/sbin/policy-rc.d"
    rm -rf "$root"/usr/share/{doc,man,info,locale}/* "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*
    tar -C "$root" -cf "$tar.part" .
    mv "$tar.part" "$tar"
  fi
  docker import --change 'ENV DEBIAN_FRONTEND=noninteractive' "$tar" hakobune-test/base >/dev/null
}

alone images build
echo "$out"
