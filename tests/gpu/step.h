/*
 * step.h - what the files of gpu_step share: the models of a case on the first CUDA device, with what joins them.
 *
 * Threads: one.
 */
#ifndef KD_TESTS_GPU_STEP_H
#define KD_TESTS_GPU_STEP_H

#include "distill/teacher.h"
#include "tests/support/tiny_objective.h"
#include "train/step.h"

/* A pass or a step: of a teacher alone, of both, or of a student that has none. */
typedef struct step_case {
    const char *name;
    const kd_model_config *teacher, *student; /* NULL: there is none                  */
    int64_t n_batch, n_tokens;                /* of a micro-batch                     */
    int n_micro;                              /* micro-batches of a step              */
} step_case;

typedef struct step_run {
    const step_case *what;
    int64_t n_layers;                 /* of the larger model: as many as fit          */
    kd_model_config teacher, student; /* with so many                                 */
    kd_backend *teacher_be, *student_be;
    tiny_objective objective;
    kd_teacher *teacher_model;
    kd_trainer *trainer;
    kd_channel *channel;
    kd_signal_plan plan; /* of a teacher that is alone                                */
    void *message;       /* likewise                                                  */
    int32_t *tokens, *labels;
    uint64_t n_steps; /* taken */
} step_run;

/* All of it, of weights and tokens that are random. Whatever the status, step_run_end() gives it back. */
KD_MUST_USE kd_status step_run_begin(step_run *run, const step_case *what, int64_t n_layers);
void step_run_end(step_run *run);

/* One pass or step, and waits for it. times_out: by part, as far as they are known. */
KD_MUST_USE kd_status step_run_once(step_run *run, kd_step_times *times_out);

/* What the mathematics of one needs: active weights, the causal half of attention, backward twice the forward. */
double step_run_flops(const step_run *run);

/* Random numbers of that deviation, f32 or bf16, whose period is a prime. */
void step_draw(kd_backend *be, kd_tensor t, float deviation);

#endif
