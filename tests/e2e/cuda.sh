#!/usr/bin/env bash
# A distillation whose teacher and student run on CUDA devices, emulated ones: submitted, killed in the middle with
# the daemon, taken up again, and ended in the bytes of one that was left alone.
source "$(dirname "$0")/support.sh"

worker=$KD_BIN/distill-worker-emulated
text "$dir/text.txt" 100000
start_daemon --worker "$worker"
tiny_job "$dir/teacher.yaml" "  resources: {device: cpu}"
expect 0 '' distillctl submit "$dir/teacher.yaml" --watch
for name in whole broken; do
    tiny_job "$dir/$name.yaml" "  resources: {device: cuda}" \
        "teachers: [{checkpoint: $dir/teacher/final, resources: {ranks: 1, device: cuda}}]"
done
expect 0 '' distillctl submit "$dir/whole.yaml" --watch
expect 0 '' distillctl submit "$dir/broken.yaml"
wait_for 60 at_step 3 5 # there is something to resume from
wait_for 5 eval '[[ $(status 3 "ranks | length") = 2 ]]' # they tell with their heartbeats
expect 0 'rank 0 +student on emulated device 0, number 0, [0-9.]* MiB in use' distillctl show 3
expect 0 'rank 1 +teachers.0 on emulated device 0, number 0, [0-9.]* MiB in use' distillctl show 3
wait_for 5 eval '[[ $(status 3 "ranks | map(select(.parts != [])) | length") = 2 ]]'
expect 0 'rank 1 +teachers.0 .* in use, ms a step: teacher [0-9.]*, signals [0-9.]*' distillctl show 3
stop_daemon KILL
pkill -KILL -f "$worker.*$dir" || fail "no rank was there to be killed"
start_daemon --worker "$worker"
expect 0 '' distillctl watch 3
equal "the job" "$(status 3 state)" succeeded
cmp "$dir/whole/final/model.safetensors" "$dir/broken/final/model.safetensors" || fail "it ended in other bytes"
finish
