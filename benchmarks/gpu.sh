#!/usr/bin/env bash
# On a CUDA device, in under eight minutes: what is right, then how fast; says what fell short.
#   bash benchmarks/gpu.sh          # both sizes
#   bash benchmarks/gpu.sh toy      # every line, also on a CPU, where the tests of a GPU fail
set -uo pipefail
cd "$(dirname "$0")/.."
export HF_HUB_OFFLINE=1 PYTHONPATH=$PWD
python=${PYTHON:-.venv/bin/python} out=${OUT:-runs/gpu}
compare() { timeout "$1" "$python" -m benchmarks.against_diffusers --out "$out/$3" --minutes "$2" --size "${@:3}"; }
mkdir -p "$out"

timeout 110 "$python" -m pytest -q -m gpu tests
failed="$([ $? -eq 0 ] || echo "pytest -m gpu")"
for size in "${@:-all}"; do
  case $size in
    toy) compare 110 0.05 toy --steps 4 --train-steps 1 ;;
    all) compare 60 0.4 small --batches 1 && compare 300 1.5 sd1 ;;
    *) compare 300 1.5 "$size" ;;
  esac || failed="$failed, the comparison ($size)"
done

echo
[ -z "$failed" ] || echo "Failed: ${failed#, }."
grep -H '^Fell short' "$out"/*.md
[ -z "$failed" ]
