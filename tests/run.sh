#!/usr/bin/env bash
# Sets up what is missing and runs every test of Hearth; with names, only those steps:
#   bash tests/run.sh              bash tests/run.sh ui clippy              bash tests/run.sh --list
# Each step writes to target/test-logs/STEP.log; the log of a step that fails is shown. Everything uses the dev profile
# and one selection of packages, so that it compiles once.
set -euo pipefail
export HEARTH_PROFILE=dev HEARTH_SELECT=--workspace CARGO_TERM_COLOR=never NO_COLOR=1
source "$(dirname "${BASH_SOURCE[0]}")/../installers/setup.sh"
cd "$HEARTH_ROOT"

STEPS=(fmt ui clippy cuda types test clients playwright desktop headless deb systemd aarch64 parity)
declare -A MEANS=(
    [fmt]="the Rust sources are formatted"
    [ui]="the page: types, unit tests, build"
    [clippy]="no warning in any crate, tests included"
    [cuda]="the GPU code compiles for both chips: no spills, no local memory in a hot kernel"
    [test]="unit, layer, parity and whole-system tests of every crate"
    [types]="the page's generated types are those of the control API"
    [clients]="the official Python clients against a real engine"
    [playwright]="the dashboard in Chromium against a real appliance"
    [desktop]="the real window under Xvfb"
    [headless]="installers/run.sh serves without a display"
    [deb]="the package installs in a clean root and serves there"
    [systemd]="the units live under a systemd of their own: install, crash, update, reboot, stop"
    [aarch64]="everything without a window compiles for Arm"
    [parity]="the parity tests and the CUDA emulator on an emulated Arm processor"
)
LOGS=$HEARTH_TARGET/test-logs
ARM=aarch64-unknown-linux-gnu
HEARTH_BIN_DIR=$(binaries)
export HEARTH_UI_DIR=$HEARTH_ROOT/ui/dist HEARTH_BIN_DIR HEARTH_BIN=$HEARTH_BIN_DIR/hearth
CHROMIUM_BIN=${CHROMIUM_BIN:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || echo /usr/bin/chromium)}
export CHROMIUM_BIN

step_fmt() { cargo fmt --all --check -- --color never; }

step_ui() {
    build_ui
    cd ui
    npm run check
    npm test
}

step_clippy() { cargo clippy --locked --workspace --all-targets -- -D warnings; }

# The table of kernels is in the step's log.
step_cuda() { HEARTH_CUDA=required cargo test --locked --workspace --test cuda_build -- --nocapture --test-threads=1; }

# The whole-system tests start the real programs, so these come first.
step_programs() {
    build_ui
    build_binaries --workspace
}

step_test() {
    step_programs
    cargo test --locked --workspace --no-fail-fast
}

# Before `test`, which writes these files anew where they lie.
step_types() {
    local fresh
    fresh=$(mktemp -d)
    TS_RS_EXPORT_DIR=$fresh cargo test --locked --workspace --lib --bins -q export_bindings
    diff -r "$fresh" ui/src/lib/types ||
        die "ui/src/lib/types is out of date. Run: cargo test -p hearth-appliance export_bindings"
    rm -r "$fresh"
}

step_clients() {
    step_programs
    local venv=$HEARTH_TARGET/test-venv
    if [ ! "$venv/ready" -nt tests/clients/requirements.txt ]; then
        python3 -m venv --clear "$venv"
        "$venv/bin/pip" install --quiet --requirement tests/clients/requirements.txt
        touch "$venv/ready"
    fi
    timeout 900 "$venv/bin/python" -m pytest tests/clients -q
}

step_playwright() {
    step_programs
    cd tests/playwright
    [ node_modules/.package-lock.json -nt package-lock.json ] || npm ci --no-fund --no-audit --loglevel=error
    timeout 900 npm test
}

step_desktop() {
    step_programs
    timeout 600 bash tests/desktop/run.sh
}

step_headless() {
    step_programs
    timeout 600 bash tests/desktop/headless.sh
}

# Builds the package from what is built already.
step_deb() {
    step_programs
    timeout 900 bash tests/deb.sh
}

# With a package of its own, which has no window.
step_systemd() {
    step_programs
    timeout 900 bash tests/systemd.sh
}

step_aarch64() { cargo check --locked --target $ARM; }

step_parity() { cargo test --locked -p hearth-model -p hearth-kernels --target $ARM --test parity --test emulator; }

# packages_of STEP: the Debian packages it needs.
packages_of() {
    case $1 in
        ui | types) ;;
        fmt) ;;
        cuda) echo build-essential ;;
        clients) echo build-essential pkg-config libwebkit2gtk-4.1-dev ;;
        playwright) echo build-essential pkg-config libwebkit2gtk-4.1-dev chromium ;;
        desktop) echo build-essential pkg-config libwebkit2gtk-4.1-dev libayatana-appindicator3-1 \
            webkit2gtk-driver xvfb xauth dbus-daemon ;;
        deb) echo build-essential pkg-config libwebkit2gtk-4.1-dev dpkg-dev binutils gzip mmdebstrap curl ;;
        systemd) echo build-essential pkg-config libwebkit2gtk-4.1-dev dpkg-dev binutils gzip mmdebstrap curl systemd-container ;;
        test) echo build-essential pkg-config libwebkit2gtk-4.1-dev curl systemd ;;
        aarch64) echo build-essential g++-aarch64-linux-gnu libc6-dev-arm64-cross ;;
        parity) echo build-essential g++-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static ;;
        *) echo build-essential pkg-config libwebkit2gtk-4.1-dev curl ;;
    esac
}

set_up() {
    local step packages=()
    for step in "$@"; do
        read -ra more <<<"$(packages_of "$step")"
        packages+=("${more[@]}")
    done
    # A Chromium that is there already, from wherever, will do (Ubuntu has it only as a snap).
    if command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null; then
        packages=("${packages[@]/chromium/}")
    fi
    mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sed '/^$/d' | sort -u)
    [ ${#packages[@]} = 0 ] || need_packages "${packages[@]}"
    need_rust
    for step in "$@"; do
        case $step in
            cuda) need_cuda_compiler || die "the step cuda needs a CUDA compiler; see the message above." ;;
            ui | test | clients | playwright | desktop | headless | deb | systemd) need_node_modules ;;&
            clients)
                python3 -c 'import venv, ensurepip' 2>/dev/null || need_packages python3 python3-venv ;;
            aarch64 | parity)
                [ -d "$(rustc --print sysroot)/lib/rustlib/$ARM" ] || rustup target add $ARM ||
                    die "the Rust library for $ARM could not be fetched. Run: rustup target add $ARM" ;;
        esac
    done
}

passed=0
failed=()

# run_step STEP: runs it in its own shell (`set -e` would not hold inside an `if`) with its own log.
run_step() {
    local log=$LOGS/$1.log began=$SECONDS
    if bash tests/run.sh --only-body "$1" >"$log" 2>&1 </dev/null; then
        printf 'ok      %-11s %4d s   %s\n' "$1" $((SECONDS - began)) "${MEANS[$1]}"
    else
        printf 'FAILED  %-11s %4d s   %s\n' "$1" $((SECONDS - began)) "${MEANS[$1]}"
        tail -n 80 "$log" | sed 's/^/        | /'
        printf '        the whole log: %s\n' "$log"
        return 1
    fi
}

count() { if [ "$2" = 0 ]; then passed=$((passed + 1)); else failed+=("$1"); fi; }

if [ "${1:-}" = --only-body ]; then
    "step_$2"
    exit 0
fi

chosen=()
for word in "$@"; do
    case $word in
        --list)
            for step in "${STEPS[@]}"; do printf '%-11s %s\n' "$step" "${MEANS[$step]}"; done
            exit 0 ;;
        *)
            [ -n "${MEANS[$word]:-}" ] || die "there is no step '$word'; the steps are: ${STEPS[*]}"
            chosen+=("$word") ;;
    esac
done
[ ${#chosen[@]} -gt 0 ] || chosen=("${STEPS[@]}")
mkdir -p "$LOGS"
set_up "${chosen[@]}"
has() { [[ " ${chosen[*]} " == *" $1 "* ]]; }

# The page needs Node, clippy needs rustc: they run beside each other. All that follows needs the built page.
page=
if has ui; then
    run_step ui >"$LOGS/ui.summary" &
    page=$!
fi
trap '[ -z "$page" ] || kill "$page" 2>/dev/null || true' EXIT
for step in "${STEPS[@]}"; do
    if [ -n "$page" ] && [ "$step" != fmt ] && [ "$step" != clippy ]; then
        status=0
        wait "$page" || status=$?
        page=
        cat "$LOGS/ui.summary"
        count ui $status
    fi
    if [ "$step" = ui ] || ! has "$step"; then continue; fi
    status=0
    run_step "$step" || status=$?
    count "$step" $status
done
if [ -n "$page" ]; then
    status=0
    wait "$page" || status=$?
    page=
    cat "$LOGS/ui.summary"
    count ui $status
fi

[ ${#failed[@]} = 0 ] || printf 'failed: %s\n' "${failed[*]}"
printf '%d passed, %d failed\n' "$passed" ${#failed[@]}
[ ${#failed[@]} = 0 ]
