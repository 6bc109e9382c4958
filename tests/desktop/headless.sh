#!/usr/bin/env bash
# installers/run.sh without a display: sets up, builds, serves, prints an address that opens; Ctrl+C ends it all.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
home=$(mktemp -d)
export XDG_CONFIG_HOME=$home/config XDG_STATE_HOME=$home/state XDG_RUNTIME_DIR=$home/run HEARTH_PROFILE=dev
unset DISPLAY WAYLAND_DISPLAY
fail() {
    echo "headless: $*" >&2
    cat "$home/out" >&2
    exit 1
}

# In a group of its own, so that Ctrl+C can be sent to all of it, as a terminal does.
setsid bash "$root/installers/run.sh" --port 0 >"$home/out" 2>&1 &
run=$!
trap 'kill -KILL -- -$run 2>/dev/null || true; rm -rf "$home"' EXIT
for _ in $(seq 600); do
    address=$(grep -om1 'http://127.0.0.1:[0-9]*/#token=[0-9a-f]*' "$home/out" || true)
    [ -z "$address" ] || break
    kill -0 "$run" 2>/dev/null || fail "run.sh ended without an address"
    sleep 0.5
done
[ -n "$address" ] || fail "no address after 300 s"

base=${address%%/#*}
token=${address##*token=}
curl -fsS --max-time 10 "$base/" | grep -qi '<!doctype html>' || fail "the page is not served"
curl -fsS --max-time 10 -H "authorization: Bearer $token" "$base/api/state" | grep -q '"stopped"' ||
    fail "the printed token does not open the control API"
status=$(curl -sS --max-time 10 -o /dev/null -w '%{http_code}' "$base/api/state")
[ "$status" = 401 ] || fail "without the token the control API answers $status, not 401"

kill -INT -- -$run
for _ in $(seq 60); do
    kill -0 "$run" 2>/dev/null || break
    sleep 0.5
done
if kill -0 "$run" 2>/dev/null; then fail "Ctrl+C did not end it in 30 s"; fi
if curl -sS --max-time 2 -o /dev/null "$base/" 2>/dev/null; then fail "something still listens after Ctrl+C"; fi
echo "headless: $base was served and has ended"
