/*
 * output.h - what the student leader leaves behind, on disk and with the daemon.
 *
 *   OUTPUT/job.yaml            the job as it runs
 *   OUTPUT/metrics.csv         step,time,loss,<losses>,learning_rate,gradient_norm,tokens_per_second,stall_share,
 *                              <parts>
 *   OUTPUT/evaluation.csv      step,loss,perplexity,accuracy,tokens
 *   OUTPUT/changes.jsonl       live values that changed, and from which step on (live_file.h)
 *   OUTPUT/checkpoints/        train/checkpoint.h
 *   OUTPUT/final/              the model folder, with its tokenizer.json
 *
 * Steps here count those made: the first row's is 1. Rows that this attempt makes again, or that another
 * run left, go when its first row comes. Losses are raw means, time is seconds
 * since 1970, stall_share the share of the step that the leader waited for signals. Parts are milliseconds of
 * the step on the leader's device, one column for each of train/step_time.h ("forward_ms"), empty where it did
 * not take place.
 *
 * Every function blocks on the disk.
 */
#ifndef KD_WORKER_OUTPUT_H
#define KD_WORKER_OUTPUT_H

#include "worker/csv.h"
#include "worker/worker.h"

typedef struct output {
    const worker *w;
    char *checkpoints; /* owned: OUTPUT/checkpoints */
    csv metrics, evaluations;
    bool is_saved; /* a checkpoint of saved_step is there */
    uint64_t saved_step;
    bool is_prune_due;  /* for the one saved or resumed last */
    double logged_at_s; /* monotonic */
} output;

/*
 * Makes the output folder and keeps it for this process, until it ends: two runs never write into one
 * folder. Waits up to OUTPUT_LOCK_TIMEOUT_MS for a run that is just ending; then KD_ERR_STATE.
 */
#define OUTPUT_LOCK_TIMEOUT_MS 5000
KD_MUST_USE kd_status output_lock(const Kd__Job *job);

/*
 * The newest checkpoint of the job's output, and its state, which the caller releases. Leaves both as
 * they are if there is none.
 */
KD_MUST_USE kd_status output_find_resume(const Kd__Job *job,
                                         resume_point *resume_out,
                                         kd_checkpoint_state *state_out);

/*
 * Writes job.yaml. The folder is locked. KD_ERR_INVALID: there is a final/ that holds what no run left
 * there, so that the last save could not replace it.
 */
KD_MUST_USE kd_status output_open(const worker *w, output *out);
void output_close(output *out); /* fine on {0} */

KD_MUST_USE kd_status output_add_step(output *out,
                                      uint64_t step,
                                      const kd_step_result *result,
                                      double step_s);
KD_MUST_USE kd_status output_add_evaluation(output *out,
                                            uint64_t step,
                                            const kd_evaluation *evaluation);
/*
 * Older checkpoints than the job keeps go only after the next step, or with final/: until then nobody knows
 * that this one can be trained on, and weights far out of bounds are numbers still. So a run that is
 * stopped may leave one more than it keeps; the next start removes it.
 */
KD_MUST_USE kd_status output_save_checkpoint(output *out, kd_trainer *trainer, uint64_t step);
KD_MUST_USE kd_status output_save_final(output *out, kd_trainer *trainer);

#endif
