#!/bin/bash
# Runs the web server, and PHP as its child.
install -d -o www-data /run/courses
exec lighttpd -D -f /etc/courses/lighttpd.conf
