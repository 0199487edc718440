# Sourced by run.sh and evidence.sh: where Python finds the code and the carried wheels, and a folder for what they make.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
if ls $here/wheels/*.whl > /dev/null 2>&1 && [ "$device" = cuda ]; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$work/site" $here/wheels/*.whl \
        || exit 1
    export PYTHONPATH="$PYTHONPATH:$work/site"
fi
[ "$device" = cpu ] && export CUDA_VISIBLE_DEVICES=""
