#!/usr/bin/env bash
# Takes installers/pictures/window-{dark,light}.png anew, of the programs in HEARTH_BIN_DIR.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
HEARTH_PICTURES=$(cd ../../installers && mkdir -p pictures && cd pictures && pwd)
export HEARTH_PICTURES
bash run.sh picture.js
ls -l "$HEARTH_PICTURES"
