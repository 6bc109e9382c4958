#!/usr/bin/env bash
# Takes installers/pictures/window-{dark,light}.webp anew, of the programs in HEARTH_BIN_DIR. WebP, since without loss it takes two thirds
# of a PNG.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
pictures=$(cd ../../installers && mkdir -p pictures && cd pictures && pwd)
HEARTH_PICTURES=$(mktemp -d)
export HEARTH_PICTURES
trap 'rm -rf "$HEARTH_PICTURES"' EXIT
bash run.sh picture.js
for picture in "$HEARTH_PICTURES"/window-*.png; do
    convert "$picture" -strip -define webp:lossless=true -define webp:method=6 "$pictures/$(basename "$picture" .png).webp"
done
ls -l "$pictures"
