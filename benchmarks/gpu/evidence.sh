#!/usr/bin/env bash
# Does joint pretraining bring accuracy? In at most 8 minutes on one GPU:
#   benchmarks/gpu/evidence.sh [--device cpu --tiny] [--out DIR]
#
# Draws clips of camera motion, pretrains the nano model on them, and fine-tunes it from there and from scratch at 1, 10
# and 100 % of the labels, three seeds at once. DIR/evidence.json has every run; the table is printed.
set -uo pipefail # not -e: the other steps are run after one that fails
cd "$(dirname "$0")/../.." || exit
here=benchmarks/gpu python=${PYTHON:-python3} out=runs/evidence device=cuda tiny=() total=475
while [ $# -gt 0 ]; do
    case $1 in
        --tiny) tiny=(--tiny) total=1500 ;;
        --device) device=$2; shift ;;
        --out) out=$2; shift ;;
        *) echo "unknown option $1" >&2; exit 2 ;;
    esac
    shift
done
# shellcheck source=benchmarks/gpu/prepare.sh
source "$here/prepare.sh"

part() { # name in the log, then arguments; within what is left of the time, less 10 s for the summary
    local log=$1; shift
    timeout -k 5 $((total - SECONDS - 10)) "$python" "$here/evidence.py" "$@" --device "$device" "${tiny[@]}" --out "$out" --work "$work" \
        > "$out/steps/$log.log" 2>&1 || { echo "$log ended with exit code $?:"; tail -5 "$out/steps/$log.log"; }
    echo "== $log done, $SECONDS s so far"
}

rm -rf "$out/steps" "$out/evidence.json"
mkdir -p "$out/steps"
part prepare prepare
part pretrain pretrain
for seed in 0 1 2; do part "finetune_$seed" finetune "$seed" & done
wait
"$python" "$here/evidence.py" summary --device "$device" "${tiny[@]}" --out "$out" --work "$work"
