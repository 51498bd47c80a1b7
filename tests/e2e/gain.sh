#!/usr/bin/env bash
# What a teacher is worth in one fixed configuration: the distilled student's test loss is at least 4 % lower
# than that of the same student alone (same initial weights, text, order and steps).
source "$(dirname "$0")/support.sh"

bible -f 'gen1:1-rev22:21' >"$dir/bible.txt"

# train NAME WIDTH LAYERS STEPS [--set ...]: prints the job's test loss.
train() {
    local name=$1 width=$2 layers=$3 steps=$4
    shift 4
    cat >"$dir/$name.yaml" <<YAML
name: $name
output: $dir/$name
seed: 1
data: {files: [$dir/bible.txt], sequence_length: 64, held_out: 0.02}
student:
  model: {hidden_size: $width, num_layers: $layers, num_heads: 4, num_kv_heads: 2, intermediate_size: $((2 * width)), num_experts: 4}
  resources: {ranks: 2}
training: {steps: $steps, batch_size: 16, learning_rate: 3e-3, warmup_steps: 20, final_learning_rate_ratio: 0.05}
checkpoint: {every_steps: 0}
evaluation: {max_sequences: 800}
YAML
    local id
    id=$(distillctl submit "$dir/$name.yaml" "$@")
    distillctl watch "$id" >"$dir/$name.log" 2>&1 || cat "$dir/$name.log" >&2
    status "$id" test_loss
}

start_daemon
train teacher 96 2 600 >/dev/null
alone=$(train alone 32 1 300)
distilled=$(train distilled 32 1 300 --set "teachers.0.checkpoint=$dir/teacher/final" \
    --set objective.kd.weight=0.7 --set objective.kd.temperature=1 --set objective.hard.weight=0.3)
awk -v a="$alone" -v d="$distilled" 'BEGIN {
    printf "alone %.4f, distilled %.4f: %.1f %% lower\n", a, d, 100 * (1 - d / a)
    exit !(a > 0 && d > 0 && d <= 0.96 * a) }' || fail "the teacher was worth less than 4 %"
finish
