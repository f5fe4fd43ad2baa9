#!/usr/bin/env bash
# Is a service of this machine or container well? Exit status 0 or 1, with what is wrong on stderr. Runs every few seconds in
# every container, so it starts no Python; bash 3.2 (macOS) will do.
#
#   bash deploy/health.sh features    a service without a port: its heartbeat file (feed/heartbeat.py) is fresh
#   bash deploy/health.sh server      the model server: /health answers
set -eu

stale=10 # seconds: a heartbeat a second, missed ten times
patience=2 # seconds for an answer

fail() { echo "$*" >&2; exit 1; }

case ${1:-} in
  server)
    exec 3<>"/dev/tcp/127.0.0.1/$FEED_SERVER_PORT"
    printf 'GET /health HTTP/1.0\r\n\r\n' >&3
    read -r -t "$patience" version status rest <&3 || fail "/health does not answer within $patience s"
    [ "$status" = 200 ] || fail "/health answers $status $rest"
    ;;
  ?*)
    file=${TMPDIR:-/tmp}/feedloop-$1.alive
    [ -e "$file" ] || fail "$file is not there yet"
    beat=$(stat -c %Y "$file" 2>/dev/null || stat -f %m "$file") # GNU, or BSD and macOS
    age=$(($(date +%s) - beat))
    [ "$age" -le "$stale" ] || fail "last heartbeat $age s ago"
    ;;
  *) fail "say what to check" ;;
esac
