#!/bin/bash
# Runs database and web server in one container; ends both when told, or when one of them ends.
db.sh &
db=$!
web.sh &
web=$!
trap : TERM INT
wait -n
kill "$db" "$web" 2>/dev/null
wait
