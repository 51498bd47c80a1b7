#!/usr/bin/env bash
# The whole way: a teacher, then a student distilled from it over MPI; files, numbers and exit codes.
source "$(dirname "$0")/support.sh"

text "$dir/text.txt" 200000
tiny_job "$dir/teacher.yaml" '  resources: {ranks: 2}'
tiny_job "$dir/student.yaml" "teachers: [{checkpoint: $dir/teacher/final, resources: {ranks: 1}}]" \
    'objective: {kd: {temperature: 2}}'
start_daemon

expect 0 'valid; takes 2 ranks' distillctl validate "$dir/teacher.yaml"
teacher=$(distillctl submit "$dir/teacher.yaml")
[[ $teacher =~ ^[0-9]+$ ]] || fail "submit printed \"$teacher\", expected a number alone"
expect 0 'step 20/20' distillctl watch "$teacher"
equal "state of the teacher" "$(status "$teacher" state)" succeeded

student=$(distillctl submit "$dir/student.yaml" --after "$teacher" --json | jq -r .id)
expect 0 'kd' distillctl watch "$student"
for key in state attempts step steps losses tokens_per_second eta_seconds output reason; do
    [ "$(distillctl show "$student" --json | jq "has(\"$key\")")" = true ] || fail "show --json lacks $key"
done
equal steps "$(status "$student" step)" 20
equal losses "$(status "$student" 'losses | map(.name) | sort | join(",")')" balance,hard,kd,z
for file in final/model.safetensors final/config.json final/tokenizer.json metrics.csv job.yaml; do
    [ -s "$dir/student/$file" ] || fail "$file is missing"
done
equal "rows of metrics.csv" "$(wc -l <"$dir/student/metrics.csv")" 21
equal "rows of metrics" "$(distillctl metrics "$student" --csv | wc -l)" 21
equal "columns of metrics" "$(distillctl metrics "$student" --csv | head -n 1)" "$(head -n 1 "$dir/student/metrics.csv")"
equal "parts of a step" "$(distillctl metrics "$student" --json | jq -r '.steps[19].parts | map(select(.seconds >= 0).name) | join(",")')" \
    count,forward,signals,loss,backward,update
equal "the same in both" "$(distillctl metrics "$student" --csv | cut -d, -f10-)" "$(cut -d, -f10- "$dir/student/metrics.csv")"
first=$(sed -n 2p "$dir/student/metrics.csv" | cut -d, -f3)
last=$(tail -n 1 "$dir/student/metrics.csv" | cut -d, -f3)
awk -v a="$first" -v b="$last" 'BEGIN { exit !(b < 0.8 * a) }' || fail "the loss went from $first to $last"
awk -v t="$(status "$student" test_loss)" 'BEGIN { exit !(t > 0 && t < 5) }' || fail "no test loss"
expect 0 'succeeded' distillctl list
expect 0 'succeeded' distillctl events "$student"
expect 0 'rank' distillctl logs "$student"

# --set and --watch; the same token gives the same job
one=$(distillctl submit "$dir/teacher.yaml" --set output="$dir/again" --set training.steps=3 --token one)
equal "job of a repeated token" "$(distillctl submit "$dir/teacher.yaml" --token one)" "$one"
expect 0 'step 3/3' distillctl watch "$one"

# cancelling: the job itself, one that waits for it, and one that would
expect 5 '99' distillctl show 99
slow=$(distillctl submit "$dir/teacher.yaml" --set output="$dir/slow" --set training.steps=100000)
waiting=$(distillctl submit "$dir/teacher.yaml" --set output="$dir/waiting" --after "$slow")
wait_for 20 at_step "$slow" 1
wait_for 5 eval '[[ $(status "$slow" "ranks | length") = 2 ]]' # they tell with their heartbeats
expect 0 'rank 1 +student on cpu [a-z0-9]*, 1 thread, [0-9.]* MiB in use' distillctl show "$slow"
wait_for 5 eval '[[ $(status "$slow" "ranks | map(select(.parts != [])) | length") = 2 ]]'
expect 0 'rank 1 .* in use, ms a step: count [0-9.]*, forward [0-9.]*, loss [0-9.]*, backward [0-9.]*, reduce [0-9.]*, update [0-9.]*' \
    distillctl show "$slow"
equal "ranks that hold memory" "$(status "$slow" 'ranks | map(select(.role == "student" and .memory_bytes > 1e5).rank) | @csv')" 0,1
expect 0 '' distillctl cancel "$slow"
expect 1 '' distillctl watch "$slow"
equal "state after cancel" "$(status "$slow" state)" cancelled
wait_for 5 no_ranks
expect 1 '' distillctl watch "$waiting"
[[ $(status "$waiting" reason) =~ $slow ]] || fail "the reason does not name job $slow: $(status "$waiting" reason)"
expect 3 "job $slow, which is cancelled" distillctl submit "$dir/teacher.yaml" --after "$slow"
finish
