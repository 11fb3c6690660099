#!/usr/bin/env bash
# Compiles the CUDA kernels with plain nvcc, without torch and without a GPU, and prints what every
# kernel takes of the GPU. Fails where a file does not compile without warnings, or where a kernel
# made for one number of channels spills registers to memory.
#
# Usage: tools/build_cuda_objects.sh [FOLDER FOR THE OBJECTS]     ARCHS="80 90" by default
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
archs=${ARCHS:-80 90}
if ! command -v nvcc >/dev/null; then
  echo "build_cuda_objects: nvcc was not found on PATH" >&2
  exit 2
fi
if [ $# -gt 0 ]; then
  out=$1
  mkdir -p "$out"
else
  out=$(mktemp -d)
  trap 'rm -rf "$out"' EXIT
fi

nvcc --version | grep release
pids=()
for source in "$root"/csrc/cuda/*.cu "$root"/csrc/cuda/launch.cpp; do
  for arch in $archs; do
    name=$(basename "$source").sm_$arch
    nvcc -std=c++17 -O3 -arch="sm_$arch" --Werror all-warnings -Xptxas -v -c -o "$out/$name.o" \
      "$source" >"$out/$name.log" 2>&1 &
    pids+=("$!:$name")
  done
done
failed=0
for job in "${pids[@]}"; do
  if ! wait "${job%%:*}"; then
    printf '\nFAILED: %s\n' "${job#*:}" >&2
    cat "$out/${job#*:}.log" >&2
    failed=1
  fi
done
[ "$failed" -eq 0 ] || exit 1

# ptxas says, a kernel: its mangled name, stack and spill bytes, then its registers.
table() {
  awk '
    /Compiling entry function/ {
      name = $0; sub(/.*function .[^a-z]*[0-9]+/, "", name)
      arch = $0; sub(/.* for ./, "", arch); sub(/[^0-9a-z_].*/, "", arch)
      kernel = name
      sub(/.*cuda[0-9]+/, "", kernel); sub(/I.*/, "", kernel)
      type = name ~ /LayoutIf/ ? "float32" : name ~ /BFloat16/ ? "bfloat16" : "float16"
      numbers = name; sub(/.*(LayoutIf|Float16E)/, "", numbers); split(numbers, n, /Li|E/)
      width = n[2]; lanes = n[4]; channels = n[6]
    }
    /bytes stack frame/ { stack = $1; stores = $5; loads = $9 }
    /Used [0-9]+ registers/ {
      registers = $0; sub(/.*Used /, "", registers); sub(/ registers.*/, "", registers)
      spills = stores + loads
      printf "%-6s %-20s %-9s %8s %6s %6s %10s %6s %7s\n", arch, kernel, type, \
        channels == 0 ? "any" : channels, width, lanes, registers, stack, spills
      if (channels != 0 && (spills > 0 || stack > 0)) bad = 1
      rows++
    }
    END { if (rows == 0) { print "no kernel was found in the logs of ptxas"; exit 1 } exit bad }
  ' "$out"/*.cu.sm_*.log
}
printf '%-6s %-20s %-9s %8s %6s %6s %10s %6s %7s\n' arch kernel type channels width lanes \
  registers stack spills
if ! table; then
  echo "build_cuda_objects: a kernel for a fixed number of channels spills (bytes above)" >&2
  exit 1
fi
