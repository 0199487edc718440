#!/usr/bin/env bash
# Measure everything on one GPU, in at most 8 minutes: benchmarks/gpu/run.sh [--short] [--device cpu --tiny] [--out DIR]
#
# Each step is a process with a time limit and writes its own result; DIR/gpu.json has all of them after every step.
# --short: parity, attention, joint step, resume, in 4 minutes. --device cpu --tiny: a rehearsal with toy sizes.
# Wheels in benchmarks/gpu/wheels (see carry.sh) are installed into a folder of their own. $PYTHON is the interpreter.
set -uo pipefail # not -e: the other steps are run after one that fails
cd "$(dirname "$0")/../.." || exit
here=benchmarks/gpu python=${PYTHON:-python3} out=runs/gpu device=cuda tiny=() mode=full
while [ $# -gt 0 ]; do
    case $1 in
        --short) mode=short ;;
        --tiny) tiny=(--tiny) ;;
        --device) device=$2; shift ;;
        --out) out=$2; shift ;;
        *) echo "unknown option $1" >&2; exit 2 ;;
    esac
    shift
done
# shellcheck source=benchmarks/gpu/prepare.sh
source "$here/prepare.sh"

case $mode in # step:seconds
    full) total=475 plan=(ceilings:40 parity:60 joint_step:110 resume:75 attention:90 tokenizer:50 online_step:60 nano:50 loader:80 compiled_step:150) ;;
    short) total=235 plan=(parity:50 joint_step:75 resume:60 attention:80) ;;
esac
if [ ${#tiny[@]} -gt 0 ]; then total=1500; fi
names=()
for entry in "${plan[@]}"; do names+=("${entry%%:*}"); done

rm -rf "$out/steps" "$out/gpu.json"
mkdir -p "$out/steps"
for entry in "${plan[@]}"; do
    name=${entry%%:*} limit=${entry##*:} left=$((total - SECONDS))
    if [ ${#tiny[@]} -gt 0 ]; then limit=400; fi
    if [ "$limit" -gt "$left" ]; then limit=$left; fi
    if [ "$limit" -lt 10 ]; then
        echo '{"status": "skipped", "reason": "no time was left"}' > "$out/steps/$name.json"
    else
        echo "== $name, at most $limit s (${SECONDS} s so far)"
        timeout -k 5 "$limit" "$python" "$here/$name.py" --device "$device" "${tiny[@]}" --out "$out" --work "$work" --limit "$limit" \
            > "$out/steps/$name.log" 2>&1 || echo "   $name ended with exit code $?"
    fi
    "$python" "$here/merge.py" "$out" "${names[@]}"
done
echo "== the whole took $SECONDS s; $out/gpu.json"
"$python" "$here/merge.py" --print "$out" "${names[@]}"
