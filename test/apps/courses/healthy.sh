#!/bin/bash
# Asks the web server for its health, with nothing but the shell.
exec 3<>/dev/tcp/127.0.0.1/80
printf 'GET /health HTTP/1.0\r\n\r\n' >&3
read -r line <&3
[[ $line == *" 200 "* ]]
