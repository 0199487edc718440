#!/usr/bin/env bash
# Collect what a GPU machine without a network lacks: wheels for its Python.
#
# benchmarks/gpu/carry.sh [PYTHON_VERSION]    default 3.12; Linux on x86-64. Versions are those of constraints.txt.
# Into benchmarks/gpu/wheels, which git ignores: copy it along with the checkout.
# PyAV, decord and Ray are left out: nothing that run.sh and evidence.sh do imports them.
set -euo pipefail
cd "$(dirname "$0")/../.."
version=${1:-3.12}
pins=() platforms=()
for name in pydantic pydantic_core annotated-types typing-inspection zarr numcodecs donfig google-crc32c simplejpeg DALL-E; do
    pin=$(grep -ix "$name==.*" constraints.txt) || { echo "constraints.txt has no line for $name" >&2; exit 1; }
    pins+=("$pin")
done
for glibc in 17 24 26 27 28 31 34 35; do platforms+=(--platform "manylinux_2_${glibc}_x86_64"); done
rm -rf benchmarks/gpu/wheels
${PYTHON:-python3} -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --implementation cp \
    --python-version "$version" "${platforms[@]}" --platform manylinux2014_x86_64 --platform manylinux1_x86_64 \
    -d benchmarks/gpu/wheels "${pins[@]}"
du -sh benchmarks/gpu/wheels
