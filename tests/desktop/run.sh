#!/usr/bin/env bash
# The window's tests on a screen and a session bus of their own. HEARTH_BIN_DIR: the folder of hearth and hearth-desktop.
# HEARTH_PICTURES: a folder that gets a picture of the serving window.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export HEARTH_BIN_DIR=${HEARTH_BIN_DIR:-../../target/debug}
export HEARTH_BIN=${HEARTH_BIN:-$HEARTH_BIN_DIR/hearth}
export HEARTH_UI_DIR=${HEARTH_UI_DIR:-$(cd ../.. && pwd)/ui/dist}
# No GPU and no desktop is taken for granted; `true` stands in for the browser that outside links open.
export GDK_BACKEND=x11 LIBGL_ALWAYS_SOFTWARE=1 NO_AT_BRIDGE=1 MESA_SHADER_CACHE_DISABLE=true BROWSER=true
unset WAYLAND_DISPLAY DISPLAY
exec dbus-run-session -- xvfb-run --auto-servernum --server-args="-screen 0 1280x860x24" \
    node --test --test-reporter=spec --test-concurrency=1 --test-timeout=600000 "${@:-window.test.js}"
