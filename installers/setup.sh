# Set-up shared by installers/run.sh and tests/run.sh: system packages, Rust, Node, the page, the programs.
# Sourced, not run. Every function first looks whether there is anything to do, so a second call is quick.

HEARTH_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
HEARTH_PROFILE=${HEARTH_PROFILE:-release}
HEARTH_TARGET=${CARGO_TARGET_DIR:-$HEARTH_ROOT/target}

say() { printf '\033[1m%s\033[0m\n' "hearth: $*" >&2; }
die() {
    printf '\033[31m%s\033[0m\n' "hearth: $*" >&2
    exit 1
}

# As root, by sudo, or not at all.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

is_installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# need_packages NAME...: installs those Debian packages that are missing.
need_packages() {
    local missing=() name
    command -v dpkg-query >/dev/null || {
        say "this is not Debian or Ubuntu: the packages $* are taken to be there"
        return 0
    }
    for name in "$@"; do is_installed "$name" || missing+=("$name"); done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
        die "these packages are missing: ${missing[*]}. Ask an administrator to run: apt-get install ${missing[*]}"
    fi
    say "installing ${missing[*]}"
    as_root apt-get update -qq || say "apt-get update reported an error; trying with the lists that are there"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
        die "apt-get could not install ${missing[*]}. Run the command above by hand to see why."
}

# version_at_least FOUND WANTED, both as 1.2.3
version_at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# The Rust that Cargo.toml asks for: from rustup, which is fetched if there is none.
need_rust() {
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$HEARTH_ROOT/Cargo.toml")
    [ -d "${CARGO_HOME:-$HOME/.cargo}/bin" ] && PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
    if ! command -v cargo >/dev/null; then
        need_packages ca-certificates curl
        say "installing Rust with rustup (https://rustup.rs)"
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
            sh -s -- -y --quiet --profile minimal --component rustfmt --component clippy ||
            die "Rust could not be fetched. Install Rust $wanted or newer (https://rustup.rs) and run this again."
        PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
    fi
    found=$(cd "$HEARTH_ROOT" && rustc --version | cut -d' ' -f2)
    version_at_least "$found" "$wanted" && return 0
    command -v rustup >/dev/null ||
        die "Rust $found is too old, $wanted is needed. Install it from https://rustup.rs and run this again."
    say "Rust $found is too old, fetching stable"
    rustup toolchain install stable --profile minimal --component rustfmt --component clippy ||
        die "Rust $wanted could not be fetched. Run: rustup toolchain install stable"
    export RUSTUP_TOOLCHAIN=stable
    found=$(rustc --version | cut -d' ' -f2)
    version_at_least "$found" "$wanted" || die "Rust $wanted or newer is needed, stable is $found."
}

# The Node that ui/package.json asks for. Where the system's is too old (Ubuntu 24.04 has 18), the official binary as
# the npm registry carries it goes to the cache folder; nothing outside that folder changes.
need_node() {
    local wanted found cache arch
    wanted=$(sed -n 's/.*"node": *">=\([0-9.]*\)".*/\1/p' "$HEARTH_ROOT/ui/package.json")
    [[ $wanted == *.*.* ]] || wanted=$wanted.0
    cache=${XDG_CACHE_HOME:-$HOME/.cache}/hearth/node
    [ -x "$cache/bin/node" ] && PATH=$cache/bin:$PATH
    command -v npm >/dev/null || need_packages npm
    found=$(node --version 2>/dev/null || echo v0)
    version_at_least "${found#v}" "$wanted" && return 0
    case $(uname -m) in
        x86_64) arch=x64 ;;
        aarch64) arch=arm64 ;;
        *) die "Node $wanted or newer is needed, $found was found. Install it from https://nodejs.org." ;;
    esac
    say "Node $found is too old for the page, fetching Node 22 into $cache"
    mkdir -p "$cache"
    npm install --silent --no-fund --no-audit --prefix "$cache" "node-linux-$arch@22" ||
        die "Node could not be fetched. Install Node $wanted or newer and run this again."
    mkdir -p "$cache/bin"
    ln -sf "../node_modules/node-linux-$arch/bin/node" "$cache/bin/node"
    PATH=$cache/bin:$PATH
    version_at_least "$(node --version | tr -d v)" "$wanted" || die "Node $wanted or newer is needed."
}

# npm ci, when package-lock.json is newer than what lies there.
need_node_modules() {
    local ui=$HEARTH_ROOT/ui
    need_node
    [ "$ui/node_modules/.package-lock.json" -nt "$ui/package-lock.json" ] && return 0
    say "fetching the page's libraries"
    (cd "$ui" && npm ci --no-fund --no-audit --loglevel=error) ||
        die "npm ci failed in ui/. Look at the message above; without a network, try again later."
    touch "$ui/node_modules/.package-lock.json"
}

# ui/dist, when a source is newer than it. The generated types are left out: they are written anew by every `cargo test`
# and nothing of them is in the built page.
build_ui() {
    local ui=$HEARTH_ROOT/ui
    if [ -f "$ui/dist/index.html" ] && [ -z "$(find "$ui" "$HEARTH_ROOT/CHANGELOG.md" -path "$ui/node_modules" -prune -o -path "$ui/dist" -prune \
        -o -path "$ui/src/lib/types" -prune -o -type f -newer "$ui/dist/index.html" -print -quit)" ]; then
        return 0
    fi
    need_node_modules
    say "building the page"
    (cd "$ui" && npm run --silent build) || die "the page could not be built; see the message above."
}

# The major version of the nvcc at $1, or 0.
nvcc_major() {
    local version
    version=$("$1" --version 2>/dev/null | sed -n 's/.*, V\([0-9]*\)\..*/\1/p')
    echo "${version:-0}"
}

# A CUDA compiler for the GPU code: one of the system's that is new enough, else NVIDIA's own as the Python registry
# carries it (94 MB to fetch, 150 MB in the cache folder; nothing outside that folder changes). Returns 1 if there is none:
# Hearth builds without it, and then runs models on the CPU.
need_cuda_compiler() {
    local nvcc cache list=$HEARTH_ROOT/installers/cuda-compiler.txt note=$HEARTH_TARGET/cuda/compiler
    [ -z "${HEARTH_NVCC:-}" ] || return 0
    for nvcc in "${CUDA_HOME:-/nowhere}/bin/nvcc" "${CUDA_PATH:-/nowhere}/bin/nvcc" "$(command -v nvcc || true)" \
        /usr/local/cuda/bin/nvcc; do
        if [ -x "$nvcc" ] && [ "$(nvcc_major "$nvcc")" -ge 13 ]; then return 0; fi
    done
    cache=${XDG_CACHE_HOME:-$HOME/.cache}/hearth/cuda-$(sed -n 's/^nvidia-cuda-nvcc==\([0-9.]*\).*/\1/p' "$list")
    nvcc=$cache/nvidia/cu13/bin/nvcc
    if [ ! -x "$nvcc" ]; then
        case $(uname -m) in
            x86_64 | aarch64) ;;
            *) say "there is no CUDA compiler for $(uname -m); building without GPU code" && return 1 ;;
        esac
        python3 -m pip --version >/dev/null 2>&1 || need_packages python3 python3-pip
        say "fetching NVIDIA's CUDA compiler into $cache"
        rm -rf "$cache.incomplete"
        python3 -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
            --root-user-action ignore --target "$cache.incomplete" --requirement "$list" || {
            say "the CUDA compiler could not be fetched; building without GPU code. Run this again with a network."
            return 1
        }
        # What only linking needs: two fifths of the whole.
        rm -rf "$cache.incomplete/nvidia/cu13/lib" "$cache.incomplete/nvidia/cu13/bin/nvlink" "$cache"
        mv "$cache.incomplete" "$cache"
    fi
    # kernels/build/nvcc.rs reads this. Left alone when it is right: a newer file means that it has to be read again.
    if [ "$(cat "$note" 2>/dev/null)" != "$nvcc" ]; then
        mkdir -p "$(dirname "$note")"
        echo "$nvcc" >"$note"
    fi
}

# Whether NVIDIA's driver is installed.
has_nvidia_driver() { [ -e /proc/driver/nvidia/version ] || ldconfig -p 2>/dev/null | grep -q 'libcuda\.so\.1'; }

# What the compiler needs for the programs without a window.
need_build_packages() { need_packages build-essential ca-certificates pkg-config; }

# What the window needs besides.
need_window_packages() { need_packages libwebkit2gtk-4.1-dev libayatana-appindicator3-1; }

# need_window_root TRIPLE: the libraries that the window of another architecture is linked to, unpacked and never run, in a folder
# of their own: a second architecture beside this system's packages would pull its own versions of half of them. Sets what
# pkg-config and the linker need to look there.
need_window_root() {
    local triple=$1 arch root name
    case $triple in
        aarch64-*) arch=arm64 ;;
        *) die "there is no list of the window's libraries for $triple." ;;
    esac
    root=$HEARTH_TARGET/root-$arch
    if [ ! -e "$root/complete" ]; then
        need_packages mmdebstrap pkg-config
        say "fetching the window's libraries for $arch into $root"
        rm -rf "$root"
        mmdebstrap --quiet --variant=extract --architectures="$arch" --include=libwebkit2gtk-4.1-dev \
            "$(. /etc/os-release && echo "$VERSION_CODENAME")" "$root" ||
            die "the libraries could not be fetched. Look at the message above, or build on an Arm machine."
        # Links that begin at / mean this system's files to the linker, which then takes a static library instead.
        find "$root" -type l -lname '/*' -printf '%p\t%l\n' | while IFS=$'\t' read -r link to; do
            ln -sfn "$root$to" "$link"
        done
        touch "$root/complete"
    fi
    name=${triple//-/_}
    export "PKG_CONFIG_ALLOW_CROSS_$name=1" "PKG_CONFIG_SYSROOT_DIR_$name=$root" \
        "PKG_CONFIG_LIBDIR_$name=$root/usr/lib/${triple/-unknown/}/pkgconfig:$root/usr/share/pkgconfig" \
        "CARGO_TARGET_${name^^}_RUSTFLAGS=-C link-arg=--sysroot=$root"
}

# Folder of the built programs for the profile.
binaries() {
    if [ "$HEARTH_PROFILE" = release ]; then echo "$HEARTH_TARGET/release"; else echo "$HEARTH_TARGET/debug"; fi
}

# build_binaries PACKAGE-SELECTION...: for example `-p hearth-cli`.
build_binaries() {
    local profile=()
    case $HEARTH_PROFILE in
        release) profile=(--release) ;;
        dev) ;;
        *) die "HEARTH_PROFILE is '$HEARTH_PROFILE'; it is either release or dev." ;;
    esac
    [ -t 2 ] || profile+=(--quiet)
    say "building Hearth ($HEARTH_PROFILE; the first time takes some minutes)"
    (cd "$HEARTH_ROOT" && cargo build --locked "${profile[@]}" --bins "$@") ||
        die "Hearth could not be built; the compiler's message is above."
}
