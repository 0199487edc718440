# shellcheck shell=bash disable=SC2154 # here, python and device are set by the scripts that source this
# Sourced by run.sh and evidence.sh: where Python finds the code and the carried wheels, and a folder for what they make.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
if compgen -G "$here/wheels/*.whl" > /dev/null && [ "$device" = cuda ]; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$work/site" "$here"/wheels/*.whl \
        || exit 1
    export PYTHONPATH="$PYTHONPATH:$work/site"
fi
if [ "$device" = cpu ]; then export CUDA_VISIBLE_DEVICES=""; fi
