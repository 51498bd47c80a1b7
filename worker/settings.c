#include "worker/settings.h"

#include "base/log.h"
#include "format/model_folder.h"
#include "shape/from_message.h"

kd_status settings_student_model(const Kd__Job *job, kd_model_config *config_out)
{
    if (job->student->init == KD__STUDENT__INIT__CHECKPOINT) {
        return kd_model_folder_config(job->student->checkpoint, config_out);
    }
    kd_model_config config;
    kd_status st =
        kd_model_config_from_message(job->student->model, job->data->sequence_length, &config);
    if (!st) {
        st = kd_model_config_check(&config);
    }
    if (!st) {
        *config_out = config;
    }
    return st;
}

static kd_schedule_kind schedule_kind(Kd__Schedule__Kind kind)
{
    switch (kind) {
    case KD__SCHEDULE__KIND__STEP:
        return KD_SCHEDULE_STEP;
    case KD__SCHEDULE__KIND__LINEAR:
        return KD_SCHEDULE_LINEAR;
    case KD__SCHEDULE__KIND__COSINE:
        return KD_SCHEDULE_COSINE;
    case _KD__SCHEDULE__KIND_IS_INT_SIZE:
        break;
    }
    KD_CHECK(!"the job was checked");
    return KD_SCHEDULE_LINEAR;
}

static kd_status schedule(const Kd__Schedule *from, const char *field, kd_schedule *schedule_out)
{
    if (from->has_value) {
        *schedule_out = kd_schedule_constant(from->value);
        return KD_OK;
    }
    if (from->n_points > KD_SCHEDULE_POINTS_MAX) {
        return kd_fail(KD_ERR_INVALID, "%s: found %zu points, expected at most %d", field,
                       from->n_points, KD_SCHEDULE_POINTS_MAX);
    }
    schedule_out->kind = schedule_kind(from->kind);
    schedule_out->n_points = (int)from->n_points;
    for (size_t i = 0; i < from->n_points; i++) {
        schedule_out->points[i] =
            (kd_schedule_point){from->points[i]->step, from->points[i]->value};
    }
    return KD_OK;
}

static kd_transport transport(const Kd__Job *job)
{
    if (job->n_teachers == 0) {
        return KD_TRANSPORT_AUTO;
    }
    switch (job->teachers[0]->transport) {
    case KD__TEACHER__TRANSPORT__AUTO:
        return KD_TRANSPORT_AUTO;
    case KD__TEACHER__TRANSPORT__LOGITS:
        return KD_TRANSPORT_LOGITS;
    case KD__TEACHER__TRANSPORT__HIDDEN:
        return KD_TRANSPORT_HIDDEN;
    case _KD__TEACHER__TRANSPORT_IS_INT_SIZE:
        break;
    }
    KD_CHECK(!"the job was checked");
    return KD_TRANSPORT_AUTO;
}

static kd_status objective(const Kd__Job *job, kd_objective_settings *settings)
{
    const Kd__Objective *from = job->objective;
    *settings = kd_objective_defaults();
    kd_status st =
        schedule(from->kd->weight, "objective.kd.weight", &settings->weights[KD_LOSS_KD]);
    if (!st) {
        st =
            schedule(from->hard->weight, "objective.hard.weight", &settings->weights[KD_LOSS_HARD]);
    }
    if (!st) {
        st = schedule(from->kd->temperature, "objective.kd.temperature", &settings->temperature);
    }
    settings->weights[KD_LOSS_BALANCE] = kd_schedule_constant(from->balance->weight);
    settings->weights[KD_LOSS_Z] = kd_schedule_constant(from->balance->z_weight);
    settings->scale_by_t2 = from->kd->scale_by_t2;
    settings->transport = transport(job);
    return st ? st : kd_objective_check(settings);
}

static kd_decay decay(Kd__Training__Decay decay)
{
    switch (decay) {
    case KD__TRAINING__DECAY__COSINE:
        return KD_DECAY_COSINE;
    case KD__TRAINING__DECAY__LINEAR:
        return KD_DECAY_LINEAR;
    case KD__TRAINING__DECAY__CONSTANT:
        return KD_DECAY_CONSTANT;
    case _KD__TRAINING__DECAY_IS_INT_SIZE:
        break;
    }
    KD_CHECK(!"the job was checked");
    return KD_DECAY_COSINE;
}

kd_status settings_trainer(const Kd__Job *job, kd_trainer_settings *settings_out)
{
    const Kd__Training *t = job->training;
    kd_trainer_settings settings = {
        .optimizer =
            {
                .beta1 = t->beta1,
                .beta2 = t->beta2,
                .epsilon = t->epsilon,
                .weight_decay = t->weight_decay,
            },
        .clip_norm = t->clip_norm,
        .learning_rate =
            {
                .peak = t->learning_rate,
                .warmup_steps = t->warmup_steps,
                .steps = t->steps,
                .decay = decay(t->decay),
                .final_ratio = t->final_learning_rate_ratio,
            },
        .max_batch = t->micro_batch_size,
        .n_tokens = job->data->sequence_length,
    };
    const kd_status st = objective(job, &settings.objective);
    if (!st) {
        *settings_out = settings;
    }
    return st;
}

kd_pack_settings
settings_pack(const Kd__Job *job, const char *out_train_path, const char *out_test_path)
{
    const Kd__Data *data = job->data;
    return (kd_pack_settings){
        .files = (const char *const *)data->files,
        .n_files = data->n_files,
        .format = data->format == KD__DATA__FORMAT__JSONL ? KD_CORPUS_JSONL : KD_CORPUS_TEXT,
        .text_field = data->text_field,
        .tokenizer = KD_TOKENIZER_BYTE,
        .sequence_length = data->sequence_length,
        .held_out = data->held_out,
        .split_seed = data->split_seed,
        .out_train_path = out_train_path,
        .out_test_path = data->held_out > 0.0 ? out_test_path : NULL,
    };
}

kd_dtype settings_dtype(const Kd__Job *job)
{
    return job->training->dtype == KD__TRAINING__DTYPE__F32 ? KD_F32 : KD_BF16;
}

uint64_t settings_micro_batches(const Kd__Job *job)
{
    return job->training->batch_size / job->training->micro_batch_size;
}

uint32_t settings_teacher_ranks(const Kd__Job *job)
{
    return job->n_teachers > 0 ? job->teachers[0]->resources->ranks : 0;
}

int settings_order_lead(const Kd__Job *job)
{
    const uint64_t n_teachers = settings_teacher_ranks(job);
    if (n_teachers == 0) {
        return 1;
    }
    const uint64_t n_ahead =
        job->teachers[0]->stream_depth * (job->student->resources->ranks + n_teachers);
    const uint64_t n_step = settings_micro_batches(job);
    return (int)((n_ahead + n_step - 1) / n_step);
}
