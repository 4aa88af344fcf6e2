#!/usr/bin/env bash
# Everything that has to be measured on a GPU, in stages of at most eight minutes that go on where they were stopped.
#
#   benchmarks/on_gpu.sh [checks|speed|study] [--small]
#
# checks  the tests marked gpu; losses on the GPU against the CPU's in fp32 and bf16; waits of the host
# speed   every benchmark of rows (benchmarks/{loss,data,latents,step,sample,mask}.py); step and sample compiled as well;
#         `vco profile` of a network of B's size, with and without compiling
# study   the study on clothing32 with wider networks and, where $IMAGES names a folder of images with classes, such as
#         50 classes of Tiny ImageNet, on these at 64 pixels; call it again until it has nothing left to do
#
# Without a stage, all of them follow each other. Results are written to $OUT (default: runs/on_gpu) as they come; what is
# done leaves a file in $OUT/done and is not done again. --small rehearses everything on a CPU with tiny sizes.
# $SECONDS_PER_STAGE (default: 470), $JOBS (runs of the study at a time, default: 4) and $IMAGES may be set.
set -u
cd "$(dirname "$0")/.." || exit 2
out=${OUT:-runs/on_gpu}
limit=${SECONDS_PER_STAGE:-470}
jobs=${JOBS:-4}
small=""
stages=()
for argument in "$@"; do
    case "$argument" in
        --small) small=1 ;;
        checks | speed | study) stages+=("$argument") ;;
        *) echo "on_gpu.sh: $argument is none of checks, speed, study and --small" >&2; exit 2 ;;
    esac
done
[ ${#stages[@]} -gt 0 ] || stages=(checks speed study)
mkdir -p "$out/done"
python=${PYTHON:-python}
failed=0
wide="--preset clothing32 --backbone.width 768 --backbone.depth 12 --backbone.heads 12 --train.batch-size 224 --train.samples-per-class 16"

# once NAME COMMAND...: runs a command unless it is done, within what is left of the stage's time
once() {
    local name=$1 left
    shift
    [ -e "$out/done/$name" ] && return
    left=$((stage_end - $(date +%s)))
    if [ "$left" -lt 5 ]; then
        echo "== $name: no time left in this stage; call it again"
        return
    fi
    echo "== $name (at most $left s)"
    timeout --kill-after 20 "$left" "$@" >>"$out/$name.log" 2>&1
    local status=$?
    tail -n 3 "$out/$name.log"
    if [ $status -eq 0 ]; then
        touch "$out/done/$name"
    elif [ $status -eq 124 ] || [ $status -eq 137 ]; then
        echo "$name: the time was up; call it again"
    else
        echo "$name: failed with status $status; see $out/$name.log"
        failed=1
    fi
}

checks() {
    # pytest ends with 5 where no test is marked, which is no success
    once tests "$python" -m pytest -q -m "${small:+not }gpu" ${small:+tests/core/test_flow.py}
    once parity "$python" benchmarks/gpu_checks.py --json "$out/parity.json" \
        ${small:+--steps 2 --methods JiT --options "--backbone.width 16 --backbone.depth 2 --backbone.context-start 1 --train.batch-size 20 --train.samples-per-class 2 --train.fit-samples 60"}
}

speed() {
    local name more
    for name in loss data latents step sample mask; do
        more=(--json "$out/$name.json")
        if [ -n "$small" ]; then
            case $name in
                loss) more+=(--turns 2) ;;
                data) more+=(--images 20 --size 32 --rounds 2) ;;
                *) more+=(--small) ;;
            esac
        fi
        once "speed-$name" "$python" "benchmarks/$name.py" "${more[@]}"
    done
    if [ -n "$small" ]; then
        once speed-profile "$python" -m vco profile --steps 2 --json "$out/profile.json"
        return
    fi
    for name in off blocks; do # the split of a step, and what the missing share of the peak is
        # shellcheck disable=SC2086
        once "speed-profile-$name" "$python" -m vco profile $wide --train.compile "$name" --steps 20 \
            --json "$out/profile-$name.json" --trace "$out/profile-$name.json.gz"
    done
    for name in step sample; do # the targets are those of compiled blocks, in both variants
        once "speed-$name-compiled" "$python" "benchmarks/$name.py" --compile --json "$out/$name-compiled.json"
    done
}

study() {
    local left
    left=$((stage_end - $(date +%s) - 10))
    if [ -n "$small" ]; then
        once study "$python" benchmarks/study.py --budget "${left}s" --small --seeds 1 --datasets digits --methods JiT \
            --work "$out/study" --results "$out/study.jsonl"
        return
    fi
    # it stops by itself, with its runs saved; it is done when it has nothing left to do
    local sets=(clothing32-wide) more=()
    [ -n "${IMAGES:-}" ] && sets+=(images64) more=(--images "$IMAGES")
    "$python" benchmarks/study.py --budget "${left}s" --datasets "${sets[@]}" "${more[@]}" --jobs "$jobs" \
        --work "$out/study" --results "$out/study.jsonl" >>"$out/study.log" 2>&1 || failed=1
    tail -n 3 "$out/study.log"
    "$python" benchmarks/study.py --report --datasets "${sets[@]}" "${more[@]}" --work "$out/study" \
        --results "$out/study.jsonl" --page "$out/study.md" || failed=1
}

for stage in "${stages[@]}"; do
    stage_end=$(($(date +%s) + limit))
    "$stage"
done
exit $failed
