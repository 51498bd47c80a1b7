#!/usr/bin/env bash
# The tiny job of teacher and student, in f32 and bf16, as on each kind of processor that this machine can be: our
# kernels and oneDNN's limited to its instructions. What is learnt differs by rounding.
source "$(dirname "$0")/support.sh"

# LEVEL:ISA:FLAG for each kind, FLAG being what /proc/cpuinfo must have.
kinds=()
case $(uname -m) in
x86_64) kinds=(v2:SSE41:sse4_2 v3:AVX2:avx2 v4:AVX512_CORE:avx512bw) ;;
esac

text "$dir/text.txt" 100000
test_loss() { tail -n 1 "$dir/$1/evaluation.csv" | cut -d, -f2; }
near() { # NAME LOSS EXPECTED
    awk -v a="$2" -v b="$3" 'BEGIN { exit !(a > 0 && (a - b) ^ 2 < 1e-6 * b * b) }' ||
        fail "$1: the test loss is $2, that of all instructions $3"
}

# run KIND: a teacher and its student, KIND-teacher and KIND-DTYPE.
run() {
    local dtype
    [ "$daemon" = 0 ] || stop_daemon TERM
    start_daemon
    tiny_job "$dir/$1-teacher.yaml"
    expect 0 '' distillctl submit "$dir/$1-teacher.yaml" --watch
    for dtype in f32 bf16; do
        tiny_job "$dir/$1-$dtype.yaml" \
            "teachers: [{checkpoint: $dir/$1-teacher/final, resources: {ranks: 1}}]"
        expect 0 '' distillctl submit "$dir/$1-$dtype.yaml" --set training.dtype=$dtype --watch
    done
}

run all
for kind in "${kinds[@]}"; do
    IFS=: read -r level isa flag <<<"$kind"
    grep -qw "$flag" /proc/cpuinfo || continue
    export KD_CPU_LEVEL=$level ONEDNN_MAX_CPU_ISA=$isa
    run "$level"
    for of in teacher f32 bf16; do
        near "$level-$of" "$(test_loss "$level-$of")" "$(test_loss "all-$of")"
    done
done
finish
