#!/usr/bin/env bash
# Builds the Debian package: the programs, desktop entry, icons, systemd user unit, manual and completions.
# The result lies in target/deb/hearth_VERSION_ARCH.deb; its path is the last line on standard output.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

usage() {
    cat <<'TEXT'
Usage: bash installers/deb.sh [amd64|arm64] [--headless] [--no-gpu-code]

  amd64|arm64     what the package is for (default: this machine). On amd64 an arm64 one is cross-compiled, against that
                  architecture's WebKitGTK from this system's own archive (1.2 GB in target/, fetched once).
  --headless      leave the window out
  --no-gpu-code   build without a CUDA compiler; the package then runs models on the CPU only

HEARTH_PROFILE=release|dev chooses how it is built (default: release). A dev package is for trying the packaging.
TEXT
}

host=$(dpkg --print-architecture)
arch=$host
headless=false
gpu=true
[ "$HEARTH_PROFILE" = dev ] && gpu=false
for word in "$@"; do
    case $word in
        amd64 | arm64) arch=$word ;;
        --headless) headless=true ;;
        --no-gpu-code) gpu=false ;;
        -h | --help) usage && exit 0 ;;
        *) usage >&2 && die "unknown option '$word'." ;;
    esac
done

need_build_packages
need_packages dpkg-dev binutils gzip
built=$(binaries)
strip=strip readelf=readelf
# run COMMAND...: a program of the package, here.
run() { env -i HOME=/root PATH=/usr/bin:/bin "$@"; }
if [ "$arch" != "$host" ]; then
    [ "$host-$arch" = amd64-arm64 ] || die "a package for $arch is built on $arch; only arm64 can be built elsewhere, on amd64."
    triple=aarch64-unknown-linux-gnu
    need_packages g++-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static
    strip=aarch64-linux-gnu-strip readelf=aarch64-linux-gnu-readelf
    built=$HEARTH_TARGET/$triple/$(basename "$built")
    run() { env -i HOME=/root PATH=/usr/bin:/bin qemu-aarch64-static -L /usr/aarch64-linux-gnu "$@"; }
fi
need_rust
if $gpu; then
    need_cuda_compiler || die "a package without GPU code helps nobody with a Spark; --no-gpu-code makes one all the same."
fi
build_ui
if ! $headless; then
    if [ "$arch" = "$host" ]; then need_window_packages; else need_window_root "$triple"; fi
fi
if [ "$arch" != "$host" ]; then
    [ -d "$(rustc --print sysroot)/lib/rustlib/$triple" ] || rustup target add "$triple" ||
        die "the Rust library for $triple could not be fetched. Run: rustup target add $triple"
    programs=(-p hearth-cli)
    $headless || programs+=(-p hearth-desktop)
    build_binaries "${programs[@]}" --target "$triple"
elif $headless; then
    build_binaries ${HEARTH_SELECT:--p hearth-cli}
else
    build_binaries ${HEARTH_SELECT:--p hearth-cli -p hearth-desktop}
fi

version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$HEARTH_ROOT/Cargo.toml")
[ "$HEARTH_PROFILE" = release ] || version=$version~dev
out=$HEARTH_TARGET/deb
tree=$out/hearth_${version}_$arch
rm -rf "$tree"
mkdir -p "$tree/DEBIAN"

install -D -m 755 "$built/hearth" "$tree/usr/bin/hearth"
$headless || install -D -m 755 "$built/hearth-desktop" "$tree/usr/bin/hearth-desktop"
"$strip" --strip-unneeded "$tree"/usr/bin/*

# A release carries the page inside the program; a dev build reads it from the source folder, which nobody else has.
if [ "$HEARTH_PROFILE" = dev ]; then
    mkdir -p "$tree/usr/share/hearth"
    cp -r "$HEARTH_ROOT/ui/dist" "$tree/usr/share/hearth/ui"
fi

# Made by the program itself, so that they always say what it does.
mkdir -p "$out/manual" "$tree/usr/share/man/man1"
rm -f "$out"/manual/*
run "$built/hearth" manual "$out/manual"
for page in "$out"/manual/*.1; do gzip -9nc "$page" >"$tree/usr/share/man/man1/$(basename "$page").gz"; done
shell_script() {
    mkdir -p "$(dirname "$tree/$2")"
    run "$built/hearth" completions "$1" >"$tree/$2"
}
shell_script bash usr/share/bash-completion/completions/hearth
shell_script zsh usr/share/zsh/vendor-completions/_hearth
shell_script fish usr/share/fish/vendor_completions.d/hearth.fish
mkdir -p "$tree/usr/lib/systemd/user"
run "$built/hearth" service unit --program /usr/bin/hearth >"$tree/usr/lib/systemd/user/hearth.service"

if ! $headless; then
    icons=$tree/usr/share/icons/hicolor
    install -D -m 644 "$HEARTH_ROOT/icons/hearth.desktop" "$tree/usr/share/applications/hearth.desktop"
    install -D -m 644 "$HEARTH_ROOT/icons/hearth.svg" "$icons/scalable/apps/hearth.svg"
    for size in 32 64 128; do
        install -D -m 644 "$HEARTH_ROOT/icons/${size}x$size.png" "$icons/${size}x$size/apps/hearth.png"
    done
    install -D -m 644 "$HEARTH_ROOT/icons/128x128@2x.png" "$icons/256x256/apps/hearth.png"
    install -D -m 644 "$HEARTH_ROOT/icons/icon.png" "$icons/512x512/apps/hearth.png"
fi

doc=$tree/usr/share/doc/hearth
mkdir -p "$doc"
gzip -9nc "$HEARTH_ROOT/CHANGELOG.md" >"$doc/changelog.gz"
cat >"$doc/copyright" <<'TEXT'
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: Hearth

Files: *
Copyright: the Hearth authors
License: Apache-2.0
 On Debian systems the text of the Apache License 2.0 is in /usr/share/common-licenses/Apache-2.0.
Comment: The licences of the libraries in the page are served by Hearth at /licences.txt.
TEXT

# depends FILE: Debian's names of what it is linked to, libc with the newest version of a symbol it asks for.
depends() {
    local library libc
    libc=$("$readelf" --version-info --wide "$1" | grep -o 'GLIBC_[0-9.]*' | sed 's/GLIBC_//' | sort -uV | tail -n 1)
    "$readelf" --dynamic --wide "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | while read -r library; do
        case $library in
            libc.so.* | libm.so.* | libdl.so.* | libpthread.so.* | librt.so.* | ld-linux*) echo "libc6 (>= $libc)" ;;
            libgcc_s.so.1) echo libgcc-s1 ;;
            libstdc++.so.6) echo libstdc++6 ;;
            *) die "$1 needs $library, and this script does not know the package that has it." ;;
        esac
    done | sort -u | paste -sd, | sed 's/,/, /g'
}
recommends=ca-certificates
$headless || recommends+=", libwebkit2gtk-4.1-0, libgtk-3-0 | libgtk-3-0t64, libayatana-appindicator3-1"
cat >"$tree/DEBIAN/control" <<TEXT
Package: hearth
Version: $version
Architecture: $arch
Maintainer: the Hearth authors <hearth@localhost>
Section: science
Priority: optional
Installed-Size: $(du -sk --exclude DEBIAN "$tree" | cut -f1)
Depends: $(depends "$tree/usr/bin/hearth")
Recommends: $recommends
Suggests: hicolor-icon-theme
Description: private AI endpoint for an NVIDIA DGX Spark
 Choose a model, press Start, and an OpenAI-compatible endpoint runs on your own
 machine, with live charts of memory, bandwidth and tokens per second. Prompts and
 answers never leave the machine.
 .
 \`hearth up\` serves page and endpoint without a window; \`hearth service install\`
 lets systemd do so. Updating this package restarts nothing that runs.
TEXT
(cd "$tree" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$tree/DEBIAN/md5sums"

# Reproducible: no time but the last commit's.
SOURCE_DATE_EPOCH=$(git -C "$HEARTH_ROOT" log -1 --format=%ct 2>/dev/null || date +%s)
export SOURCE_DATE_EPOCH
compress="-Zxz"
[ "$HEARTH_PROFILE" = release ] || compress="-Zgzip -z1"
dpkg-deb --root-owner-group $compress --build "$tree" "$tree.deb" >/dev/null
rm -rf "$tree"
say "built $(du -h "$tree.deb" | cut -f1) for $arch$($headless && echo ', without the window')"
echo "$tree.deb"
