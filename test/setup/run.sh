#!/usr/bin/env bash
# run.sh COMMAND...   runs a command with a lab of its own, brought up before it and ended after it, however it ends.
. "$(dirname "$(readlink -f "$0")")/lib.sh"

[ $# -gt 0 ] || die "usage: run.sh COMMAND..."
setup=$(dirname "$(readlink -f "$0")")
dir=$(mktemp -d "${TMPDIR:-/tmp}/hakobune-test.XXXXXX")
trap '"$setup/lab.sh" down "$dir"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

"$setup/lab.sh" up "$dir"
# shellcheck source=/dev/null # written by lab.sh
. "$dir/env"
"$@"
