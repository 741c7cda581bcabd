#!/usr/bin/env bash
# run.sh [-beside COMMAND] COMMAND...   runs a command with a lab of its own, brought up before it and ended after it,
#                                       however it ends; in the lab that is up, where `. DIR/env` has named one
#
# What -beside names is run by a shell while the lab comes up. If it fails so does all, though only after the command.
. "$(dirname "$(readlink -f "$0")")/lib.sh"

beside=true
if [ "${1:-}" = -beside ] && [ $# -gt 1 ]; then
  beside=$2
  shift 2
fi
[ $# -gt 0 ] || die "usage: run.sh [-beside COMMAND] COMMAND..."
setup=$(dirname "$(readlink -f "$0")")

if [ -n "${HAKOBUNE_TEST_LAB:-}" ] && [ -e "$HAKOBUNE_TEST_LAB/env" ]; then
  bash -c "$beside"
  exec "$@"
fi

dir=$(mktemp -d "${TMPDIR:-/tmp}/hakobune-test.XXXXXX")
lab=
trap 'wait $lab || true; "$setup/lab.sh" down "$dir"' EXIT # what is coming up is not ended half-way
trap 'exit 130' INT
trap 'exit 143' TERM

"$setup/lab.sh" up "$dir" &
lab=$!
failed=
bash -c "$beside" || failed=1
wait $lab
# shellcheck source=/dev/null # written by lab.sh
. "$dir/env"
"$@" || failed=1
[ -z "$failed" ]
