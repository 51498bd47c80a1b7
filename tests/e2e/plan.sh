#!/usr/bin/env bash
# What `distillctl validate --explain` says a job will need is what its ranks hold at their end, to the byte:
# with the teacher on ranks of its own and with it in the student's, in both dtypes, by both transports.
. "$(dirname "$0")/support.sh"

text "$dir/text.txt" 60000
start_daemon --slots 4
distill-model create --out "$dir/teacher" --hidden-size 64 --layers 2 --heads 2 --experts 4 \
    --intermediate-size 96 --tokenizer byte >/dev/null

# held: "rank N: HELD SCRATCH PRODUCTS" of each rank, from the log of a job.
held() {
    sed -nE 's/.*rank ([0-9]+): memory: ([0-9]+) B held, ([0-9]+) B of scratch, ([0-9]+) B for products.*/rank \1: \2 \3 \4/p' | sort
}

# planned: the same from a plan; the student's ranks are the first.
planned() {
    jq -r '[.plan.roles[] as $r | range($r.ranks) | "\($r.held_bytes) \($r.scratch_bytes) \($r.products_bytes)"]
        | to_entries[] | "rank \(.key): \(.value)"'
}

# agree NAME SET...: a job of these settings needs what was said.
agree() {
    local name=$1 plan id
    shift
    local sets=(--set "output=$dir/$name")
    for set in "$@"; do sets+=(--set "$set"); done
    plan=$(distillctl validate "$dir/job.yaml" "${sets[@]}" --explain --json)
    expect 0 'the final model' distillctl validate "$dir/job.yaml" "${sets[@]}" --explain
    id=$(distillctl submit "$dir/job.yaml" "${sets[@]}")
    expect 0 'state: succeeded' distillctl watch "$id"
    equal "$name: memory" "$(distillctl logs "$id" | held)" "$(planned <<<"$plan")"
    local folder
    folder=$(find "$dir/$name/checkpoints" -name 'step-*' | sort | tail -n 1)
    equal "$name: bytes of a checkpoint" "$(stat -c %s "$folder"/*.safetensors | jq -s add)" \
        "$(jq .plan.checkpoint_bytes <<<"$plan")"
    equal "$name: bytes of the model" "$(stat -c %s "$dir/$name/final/model.safetensors")" \
        "$(jq .plan.model_bytes <<<"$plan")"
    equal "$name: messages" \
        "$(distillctl logs "$id" | sed -nE 's/.*rank 0: signals: ([0-9]+) messages.*/\1/p')" \
        "$(jq '.plan.steps * .plan.roles[0].micro_batches' <<<"$plan")"
}

tiny_job "$dir/job.yaml" "teachers: [{checkpoint: $dir/teacher}]"
steps=(training.steps=6 training.batch_size=8)
agree apart "${steps[@]}" teachers.0.resources.ranks=1 student.resources.ranks=2 teachers.0.stream_depth=3
agree logits "${steps[@]}" teachers.0.resources.ranks=1 teachers.0.transport=logits training.dtype=bf16
agree together "${steps[@]}" teachers.0.dtype=bf16

# --- once the text is packed its tokens are known
plan=$(distillctl validate "$dir/job.yaml" --set "output=$dir/together" --explain --json)
equal "all tokens" "$(jq '.plan.data | .train_tokens + .held_out_tokens' <<<"$plan")" 60001
expect 0 'tokens to train on' distillctl validate "$dir/job.yaml" --set "output=$dir/together" --explain
equal "tokens of a text that nobody packed" "$(distillctl validate "$dir/job.yaml" --explain --json | jq .plan.data.train_tokens)" null

# --- mistakes are those of validate; without the program that knows models it says so
expect 3 '^training.batch_size: found 7' distillctl validate "$dir/job.yaml" --explain --set training.batch_size=7
equal "the same as JSON" "$(distillctl validate "$dir/job.yaml" --explain --json --set training.batch_size=7 | jq -c '[.valid, .plan]')" '[false,null]'
expect 65 '^training.batch_size: found 7' distill-model plan "$dir/job.yaml" --set training.batch_size=7
expect 64 'expected a job file' distill-model plan
expect 7 'cannot run /nowhere: No such file' env DISTILLD_MODEL=/nowhere distillctl validate "$dir/job.yaml" --explain
equal "as JSON it has no plan" "$(DISTILLD_MODEL=/nowhere distillctl validate "$dir/job.yaml" --explain --json 2>/dev/null)" \
    '{"valid":true,"mistakes":[],"plan":null}'
many=()
for ((i = 0; i < 100; i++)); do many+=(--set seed=$i); done
expect 0 'the final model' distillctl validate "$dir/job.yaml" --explain "${many[@]}"
expect 2 'not an option of this command' distillctl list --explain
finish
