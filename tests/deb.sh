#!/usr/bin/env bash
# Builds the package (dev profile), installs it with apt in a root that has nothing but a minimal system, and starts it there:
# version, manual, completions, unit, page and endpoint. Needs root, for the chroot.
#
#     bash tests/deb.sh [what installers/deb.sh takes]
#     bash tests/deb.sh --package FILE      a package that is there already, with what the window needs; one for Arm runs on an
#                                           emulated processor
set -euo pipefail
export HEARTH_PROFILE=dev
source "$(dirname "${BASH_SOURCE[0]}")/../installers/setup.sh"
[ "$(id -u)" = 0 ] || die "the clean root needs root: run this with sudo."
need_packages mmdebstrap curl

with=--no-install-recommends
if [ "${1:-}" = --package ]; then
    package=${2:?the file of the package}
    with=--install-recommends
else
    package=$(bash "$HEARTH_ROOT/installers/deb.sh" "$@")
fi
arch=$(dpkg-deb --field "$package" Architecture)
if [ "$arch" != "$(dpkg --print-architecture)" ]; then
    # The kernel must hand programs of that architecture to an emulator.
    [ "$arch" = arm64 ] || die "there is no root for $arch here."
    need_packages arch-test qemu-user-static
    formats=/proc/sys/fs/binfmt_misc
    [ -e $formats/register ] || mount -t binfmt_misc binfmt_misc $formats
    [ -e $formats/qemu-aarch64 ] || cat /usr/lib/binfmt.d/qemu-aarch64.conf >$formats/register
fi
root=$(mktemp -d "${TMPDIR:-/tmp}/hearth-root.XXXXXX")
server= pid=
clean_up() {
    [ -z "$pid" ] || kill -KILL "$pid" 2>/dev/null || true
    mountpoint -q "$root/proc" && umount "$root/proc"
    rm -rf "$root"
}
trap clean_up EXIT

say "making a clean root"
codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
# The variant apt: what apt itself needs and nothing else.
mmdebstrap --quiet --architectures="$arch" --variant=apt --skip=cleanup/apt "$codename" "$root"
cp "$package" "$root/tmp/hearth.deb"
mount -t proc proc "$root/proc"
inside() { chroot "$root" env -i HOME=/root PATH=/usr/bin:/bin:/usr/sbin:/sbin DEBIAN_FRONTEND=noninteractive "$@"; }
say "installing $(basename "$package")"
inside apt-get install -y -qq -o Dpkg::Use-Pty=0 $with /tmp/hearth.deb >/dev/null

expect() { [ -e "$root/$1" ] || die "the package has no /$1"; }
version=$(inside hearth --version)
[[ $version == "hearth "[0-9]* ]] || die "hearth --version says: $version"
expect usr/bin/hearth
expect usr/lib/systemd/user/hearth.service
expect usr/share/bash-completion/completions/hearth
expect usr/share/zsh/vendor-completions/_hearth
expect usr/share/fish/vendor_completions.d/hearth.fish
if [[ " $* " != *" --headless "* ]]; then
    [ $with = --no-install-recommends ] || inside hearth-desktop --version >/dev/null || die "the window's program does not run"
    expect usr/bin/hearth-desktop
    expect usr/share/applications/hearth.desktop
    expect usr/share/icons/hicolor/128x128/apps/hearth.png
fi
grep -qx 'ExecStart="/usr/bin/hearth" up' "$root/usr/lib/systemd/user/hearth.service" || die "the unit runs something else"
inside dpkg --verify hearth || die "the files are not those of the package"

# `hearth up` with a model, on a port of its own, as nobody.
say "starting it"
install -d -m 777 "$root/tmp/home"
log=$root/tmp/up.log
inside HOME=/tmp/home setpriv --reuid=65534 --regid=65534 --clear-groups hearth up --json --port 0 --start >"$log" 2>&1 &
server=$!
# As long as an emulated processor takes.
for _ in $(seq 1200); do
    url=$(sed -n 's/.*"url":"\([^"]*\)".*/\1/p' "$log" | head -n 1)
    [ -z "$url" ] || break
    kill -0 "$server" 2>/dev/null || die "hearth up ended: $(cat "$log")"
    sleep 0.1
done
[ -n "$url" ] || die "hearth up says nothing: $(cat "$log")"
pid=$(sed -n 's/.*"pid":\([0-9]*\).*/\1/p' "$log" | head -n 1)
curl -sf "$url/" | grep -q '<div id="app"' || die "there is no page at $url"
for _ in $(seq 1800); do
    answer=$(curl -s "$url/v1/chat/completions" -H 'content-type: application/json' \
        -d '{"model": "ember", "max_tokens": 4, "messages": [{"role": "user", "content": "What is Hearth?"}]}')
    [[ $answer != *'"choices"'* ]] || break
    sleep 0.1
done
[[ $answer == *'"choices"'* ]] || die "the endpoint does not answer: $answer"

kill -TERM "$pid"
wait "$server" || die "hearth up did not end orderly: $(cat "$log")"
pid=
inside dpkg --purge hearth
[ ! -e "$root/usr/bin/hearth" ] && [ ! -e "$root/usr/share/hearth" ] || die "removing the package leaves files behind"
say "$version: installed, served, removed"
