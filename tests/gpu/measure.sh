#!/usr/bin/env bash
# Everything that needs a GPU, tested and measured once, in less than a quarter of an hour.
#
#     pip install -e '.[test,cuda13]' && pip install torch          # a build of PyTorch for CUDA
#     OUT=out bash tests/gpu/measure.sh                             # all parts, or those that are named:
#     OUT=out bash tests/gpu/measure.sh bench train
#
# The text is tinyshakespeare: it is fetched, or found in the folder that $TINYGRAD_TFM_DATA names. What each part prints
# goes to $OUT/PART.txt, the benchmark's figures to $OUT/benchmarks. A part that fails does not stop the others. Parts:
# machine doctor tests memcheck racecheck (ten minutes at most), bench train (six).
set -uo pipefail
cd "$(dirname "$0")/../.." || exit
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

# A text laid in or beside the clone saves the download.
for data in shared/data ../shared/data; do
    if [ -z "${TINYGRAD_TFM_DATA:-}" ] && [ -f "$data/tinyshakespeare.txt" ]; then
        export TINYGRAD_TFM_DATA="$PWD/$data"
    fi
done

out=${OUT:-out}
python=${PYTHON:-python}
wanted=" ${*:-machine doctor tests memcheck racecheck bench train} "
mkdir -p "$out"
: > "$out/parts.tsv"

# part NAME SECONDS COMMAND…: run it if it is wanted, for so long at most, and note how it went.
part() {
    local name=$1 limit=$2 code start=$SECONDS
    shift 2
    [[ $wanted == *" $name "* ]] || return 0
    echo "== $name"
    timeout --kill-after=10 "$limit" "$@" > "$out/$name.txt" 2>&1
    code=$?
    tail -n 12 "$out/$name.txt"
    printf '%s\t%s\t%s\n' "$name" "$code" $((SECONDS - start)) >> "$out/parts.tsv"
}

part machine 20 bash -c "nvidia-smi && $python --version && $python -m pip list"
part doctor 40 "$python" -m tinygrad_tfm doctor --json
part tests 240 env TINYGRAD_TFM_GPU=required "$python" -m pytest -n 0 -m gpu tests/gpu -ra

# One step in float32 and one in bf16 launch every kernel of ours. For memcheck each array has memory of its own, since
# CuPy's pool would hide who reads beyond its array. What CUDA's functions return is no fault of a kernel.
if command -v compute-sanitizer > /dev/null; then
    only=()
    for kernel in $("$python" tests/gpu/measured.py kernels); do
        only+=(--kernel-name "kne=$kernel")
    done
    check=("${only[@]}" --report-api-errors no --error-exitcode 9 "$python" -m pytest -n 0 -m gpu tests/gpu/test_gpu.py
           -k every_kernel_runs)
    part memcheck 90 env TINYGRAD_TFM_GPU=without-pool compute-sanitizer --tool memcheck "${check[@]}"
    part racecheck 90 env TINYGRAD_TFM_GPU=required compute-sanitizer --tool racecheck "${check[@]}"
else
    echo "== no compute-sanitizer: memcheck and racecheck are skipped"
fi

part bench 240 "$python" -m tinygrad_tfm bench --suite gpu --results "$out/benchmarks" --json
part train 120 "$python" -m tinygrad_tfm train --preset nanogpt-gpu --device cuda --corpus tinyshakespeare \
    --out "$out/run-$(date +%s)" --json

echo "== summary"
"$python" tests/gpu/measured.py summary "$out"
