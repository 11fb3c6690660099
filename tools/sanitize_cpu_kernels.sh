#!/bin/sh
# Builds the CPU kernels without torch, with the address and undefined-behaviour sanitizers, and
# runs them on random shapes and wild locations, once for each vector width this machine has.
#
#     tools/sanitize_cpu_kernels.sh [ROUNDS]     (CXX chooses the compiler)
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
flags="-std=c++17 -O1 -g -Wall -Wextra -fno-omit-frame-pointer -fsanitize=address,undefined
       -fno-sanitize-recover=all -I$root/csrc"
for source in "$root"/csrc/cpu/kernels_*.cpp "$root/csrc/cpu/capability.cpp" \
              "$root/tests/ops/sanitizers/fuzz.cpp"; do
    # shellcheck disable=SC2086
    ${CXX:-g++} $flags -c "$source" -o "$work/$(basename "$source" .cpp).o"
done
# shellcheck disable=SC2086
${CXX:-g++} $flags "$work"/*.o -o "$work/fuzz"
for capability in default avx2 avx512; do
    SPARSE_ENCODERS_CPU_CAPABILITY=$capability "$work/fuzz" "${1:-2000}"
done
