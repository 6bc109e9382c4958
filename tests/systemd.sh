#!/usr/bin/env bash
# Boots a clean root with its own systemd (systemd-nspawn) and lets Hearth's units live there: install, start, crash, update, reboot,
# remove, as a person's service and as the machine's. Needs root. With a package as argument it takes that one.
set -euo pipefail
export HEARTH_PROFILE=${HEARTH_PROFILE:-dev}
source "$(dirname "${BASH_SOURCE[0]}")/../installers/setup.sh"
[ "$(id -u)" = 0 ] || die "a root of its own needs root: run this with sudo."
need_packages mmdebstrap systemd-container

package=${1:-$(bash "$HEARTH_ROOT/installers/deb.sh" --headless)}
folder=$(mktemp -d "${TMPDIR:-/tmp}/hearth-systemd.XXXXXX")
root=$folder/root
container=
clean_up() {
    local status=$?
    [ $status = 0 ] || tail -n 15 "$folder/boot.log" 2>/dev/null || true
    [ -z "$container" ] || { kill -KILL "$container" && wait "$container"; } 2>/dev/null || true
    rm -rf "$folder"
}
trap clean_up EXIT

say "making a clean root with systemd"
codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
mmdebstrap --quiet --variant=apt --skip=cleanup/apt \
    --include=systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,polkitd,login,passwd,procps,curl "$codename" "$root"
cp "$package" "$root/root/hearth.deb"
chroot "$root" env -i PATH=/usr/bin:/bin:/usr/sbin:/sbin DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq -o Dpkg::Use-Pty=0 --no-install-recommends /root/hearth.deb >/dev/null
chroot "$root" useradd --create-home ann

# boot: starts the container. It ends when its system reboots, with a code that asks for another start.
boot() {
    systemd-nspawn --quiet --boot --directory="$root" --register=no --keep-unit --private-network \
        --machine=hearth-test </dev/null >"$folder/boot.log" 2>&1 &
    container=$!
}
# Process 1 of the container.
leader() { pgrep --parent "$container" --oldest; }
# inside COMMAND...: as root, in the container.
inside() { nsenter --target "$(leader)" --all -- /usr/bin/env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }
# ann COMMAND...: as a person who is logged in, or whose systemd lingers.
ann() {
    inside runuser --user ann -- env HOME=/home/ann XDG_RUNTIME_DIR=/run/user/1000 "$@"
}
until_true() {
    local what=$1
    shift
    for _ in $(seq 400); do
        if [ -n "$(leader)" ] && "$@" >/dev/null 2>&1; then return 0; fi
        kill -0 "$container" 2>/dev/null || die "the container ended while it was waited for: $what"
        sleep 0.1
    done
    die "waited 40 s for: $what"
}
is() { [ "$("${@:2}")" = "$1" ]; }
answers() {
    inside curl -s --max-time 20 http://127.0.0.1:8000/v1/chat/completions -H 'content-type: application/json' \
        -d '{"model": "ember", "max_tokens": 4, "messages": [{"role": "user", "content": "What is Hearth?"}]}' | grep -q '"choices"'
}
pid_of() { "$@" show --property MainPID --value hearth; }

boot
until_true "systemd in the container" inside systemctl is-active --quiet multi-user.target

say "a person's service"
inside loginctl enable-linger ann
until_true "ann's systemd" ann systemctl --user is-active --quiet default.target
inside loginctl disable-linger ann
# Her session, so that her systemd stays while lingering is off.
inside systemd-run --quiet --uid=ann --property=PAMName=login --unit=session sleep infinity
until_true "ann's systemd" ann systemctl --user is-active --quiet default.target
ann hearth service install | tee "$folder/said"
grep -q 'when you log in' "$folder/said" && grep -q 'without a model' "$folder/said" || die "install does not say when it starts"
is active ann systemctl --user is-active hearth || die "the service does not run"
is no inside loginctl show-user ann --property Linger --value || die "it starts at boot though nobody asked"
[ "$(ann hearth service status --json | grep -o '"active":"active"')" ] || die "hearth service status does not see it"
if answers; then die "a model runs though nobody asked"; fi
ann hearth start ember >/dev/null
until_true "an answer" answers

say "a crash"
before=$(pid_of ann systemctl --user)
inside kill -KILL "$before"
until_true "systemd starting it again" eval '[ "$(pid_of ann systemctl --user)" != "$before" ] && is active ann systemctl --user is-active hearth'
[ -z "$(inside pgrep --full 'hearth.* serve' || true)" ] || die "the engine of the dead appliance still runs"

say "an update of the package"
before=$(pid_of ann systemctl --user)
inside dpkg --install /root/hearth.deb >/dev/null
[ "$(pid_of ann systemctl --user)" = "$before" ] || die "the update restarted it"

say "a reboot, with the last model and nobody logged in"
ann hearth service install --at-boot --start-model | tee "$folder/said"
grep -q 'at boot, with the model that served last' "$folder/said" || die "install does not say that it starts at boot"
inside systemctl reboot || true
wait "$container" && die "the container ended without asking for another start"
boot
until_true "systemd in the container" inside systemctl is-active --quiet multi-user.target
until_true "an answer after the reboot" answers
[ "$(inside loginctl list-sessions --no-legend | wc -l)" = 0 ] || die "somebody is logged in; the test proves nothing"
ann hearth service uninstall >/dev/null
if answers; then die "it runs on after it was removed"; fi
[ ! -e "$root/home/ann/.config/systemd/user/hearth.service" ] || die "the unit stays behind"

say "the machine's service"
inside hearth service install --system --run-as ann --start-model | tee "$folder/said"
is active inside systemctl is-active hearth || die "the service does not run"
until_true "an answer" answers
is ann inside ps --no-headers --format user "$(pid_of inside systemctl)" || die "it runs as somebody else"
status=$(inside cat "/proc/$(pid_of inside systemctl)/status")
grep -q 'NoNewPrivs:.*1' <<<"$status" && grep -q 'CapBnd:.*0000000000000000' <<<"$status" || die "it is not hardened: $status"
inside systemd-analyze security --no-pager --threshold=35 hearth | tail -n 1
say "a request that runs when it is stopped"
inside curl -s --max-time 60 http://127.0.0.1:8000/v1/chat/completions -H 'content-type: application/json' \
    -d '{"model": "ember", "max_tokens": 300, "ignore_eos": true, "messages": [{"role": "user", "content": "What is Hearth?"}]}' \
    >"$folder/answer" &
asked=$!
sleep 0.5
inside systemctl stop hearth
wait "$asked" || die "the request was cut off"
grep -q '"finish_reason":"length"' "$folder/answer" || die "the request was not finished: $(cat "$folder/answer")"
is success inside systemctl show --property Result --value hearth || die "it did not end orderly"
inside hearth service uninstall --system >/dev/null
[ ! -e "$root/etc/systemd/system/hearth.service" ] || die "the unit stays behind"
inside systemctl --failed --no-legend --no-pager | grep . && die "a unit failed"
say "installed, crashed, updated, rebooted, stopped and removed under systemd $(inside systemctl --version | sed -n '1s/systemd \([0-9]*\).*/\1/p')"
