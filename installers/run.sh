#!/usr/bin/env bash
# Sets up what is missing, builds Hearth and opens its window. Without a display it serves the same page and prints
# the page's address. Run it again any time: what is done is not done twice.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

usage() {
    cat <<'TEXT'
Usage: bash installers/run.sh [--headless] [--port N] [--no-open]

  --headless   no window: serve the page and print its address (also the default without a display)
  --port N     serve on port N instead of the one in the settings (8000)
  --no-open    set up and build, then stop

HEARTH_PROFILE=release|dev chooses how it is built (default: release).
TEXT
}

headless=false
open=true
port=()
while [ $# -gt 0 ]; do
    case $1 in
        --headless) headless=true ;;
        --no-open) open=false ;;
        --port)
            [[ ${2:-} =~ ^[0-9]+$ ]] && [ "$2" -le 65535 ] ||
                die "--port needs a number from 1 to 65535 (0: any free port), not '${2:-}'."
            port=(--port "$2")
            shift
            ;;
        -h | --help) usage && exit 0 ;;
        *) usage >&2 && die "unknown option '$1'." ;;
    esac
    shift
done
if [ -z "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ]; then headless=true; fi

need_build_packages
if ! $headless; then need_window_packages; fi
need_rust
# Without a GPU the GPU code is of no use; without the compiler Hearth still runs, on the CPU.
if has_nvidia_driver; then need_cuda_compiler || true; fi
build_ui
# Without a window only the command is built, so that a server needs no WebKit.
# The tests set HEARTH_SELECT=--workspace, because they have built everything at once already.
if $headless; then select=(${HEARTH_SELECT:--p hearth-cli}); else select=(${HEARTH_SELECT:--p hearth-cli -p hearth-desktop}); fi
build_binaries "${select[@]}"
if ! $open; then
    say "built: $(binaries)/hearth"
    exit 0
fi

export HEARTH_UI_DIR=$HEARTH_ROOT/ui/dist
if $headless; then
    say "serving without a window; open the address below in a browser. Ctrl+C stops Hearth."
    exec "$(binaries)/hearth" up "${port[@]}"
fi
say "opening the window"
exec "$(binaries)/hearth-desktop" "${port[@]}"
