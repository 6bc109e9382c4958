#!/usr/bin/env bash
# Everything in kernels/results/ that a GPU has to say, in one go:
#
#   bash kernels/measure.sh HEARTH FOLDER [PREFIX]
#
# HEARTH is a release build of the program, FOLDER receives PREFIX-*.csv (PREFIX: the GPU's name by default), a log of each step and
# summary.txt. A step that fails is named there and the others go on; the exit code is their number. --quick as PREFIX tries the
# steps themselves, in seconds and on any machine: what that writes is no result.
set -uo pipefail

[ $# -ge 2 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }
hearth=$(realpath "$1") && mkdir -p "$2" && out=$(realpath "$2") || exit 2
quick=false
[ "${3:-}" = --quick ] && quick=true
prefix=${3:-$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1 | tr -cs 'A-Za-z0-9\n' - | tr '[:upper:]' '[:lower:]' | sed 's/-*$//')}
$quick && prefix=quick
prefix=${prefix:-gpu}
failed=0

# step NAME SECONDS COMMAND...: runs it with its output in NAME.log.
step() {
    local name=$1 limit=$2 start=$SECONDS rc=0
    shift 2
    timeout "$limit" "$@" >"$out/$name.log" 2>&1 || rc=$?
    if [ $rc = 0 ]; then
        printf 'ok      %-10s %4s s\n' "$name" $((SECONDS - start))
    else
        printf 'failed  %-10s %4s s, exit code %s: %s\n' "$name" $((SECONDS - start)) $rc "$(tail -n 1 "$out/$name.log")"
        failed=$((failed + 1))
    fi
}

# sweep NAME SECONDS ARGUMENTS...: a bench with every figure in PREFIX-NAME.csv.
sweep() {
    local name=$1 limit=$2
    shift 2
    step "$name" "$limit" "$hearth" bench "$@" --csv "$out/$prefix-$name.csv"
}

all() {
    if $quick; then
        sweep short 120 --synthetic tiny --format nvfp4-mixed --kv fp8 --contexts 0,70 --ops
        sweep untuned 120 --synthetic tiny --format nvfp4-mixed --kv fp8 --contexts 0,70 --ops --no-tune
        sweep widths 120 --synthetic tiny --format nvfp4-mixed --kv fp8 --contexts 70 --widths 1,2 --prompts 128 --chunk 64
    else
        local mixed=(--synthetic qwen3.6-35b-a3b --format nvfp4-mixed --kv fp8)
        # The kernels against the CPU before their speed.
        step selftest 120 "$hearth" selftest
        # With the fastest of several kernels, and with the first of each.
        sweep short 180 "${mixed[@]}" --contexts 0,1024,8192 --ops
        sweep untuned 180 "${mixed[@]}" --contexts 0,1024,8192 --ops --no-tune
        sweep widths 180 "${mixed[@]}" --contexts 1024 --widths 1,2,4,8,16 --ops
        sweep long 400 "${mixed[@]}" --contexts 0,8192,65536,262144,1048000 --prompts 512,8192,65536 --chunk 8192 --ops
        for format in bf16 fp8 nvfp4; do
            sweep "dense-$format" 120 --synthetic dense-1gb --format "$format" --kv fp8 --contexts 0 --widths 1,4 --ops
        done
    fi
    # From disk; the loader reads past the page cache where the file system allows it.
    local folder=$out/checkpoint shape=qwen3.6-35b-a3b
    $quick && shape=tiny
    step save 300 "$hearth" bench --synthetic $shape --format nvfp4-mixed --save "$folder"
    sync
    step load 300 "$hearth" bench "$folder" --kv fp8 --context 512 --decode 16 --csv "$out/$prefix-load.csv"
    rm -rf "$folder"
}

cd "$(dirname "$0")/.." || exit 2
{
    echo "$prefix, commit $(git rev-parse --short=10 HEAD 2>/dev/null || echo -), $("$hearth" --version)"
    nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,power.limit --format=csv,noheader 2>/dev/null
} >"$out/summary.txt"
cat "$out/summary.txt"
# Not by way of a pipe: that would count the failures elsewhere.
all > >(tee -a "$out/summary.txt")
exit $failed
