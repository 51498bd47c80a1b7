#include "worker/settings.h"

#include "base/log.h"
#include "comm/step_order.h"

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

static kd_dtype dtype_of(Kd__Dtype dtype)
{
    KD_CHECK(dtype != KD__DTYPE__AUTO);
    return dtype == KD__DTYPE__F32 ? KD_F32 : KD_BF16;
}

kd_dtype settings_dtype(const Kd__Job *job)
{
    return dtype_of(job->training->dtype);
}

kd_dtype settings_teacher_dtype(const Kd__Job *job, int teacher)
{
    return dtype_of(job->teachers[teacher]->dtype);
}

uint64_t settings_micro_batches(const Kd__Job *job)
{
    return job->training->batch_size / job->training->micro_batch_size;
}

int settings_order_lead(const Kd__Job *job)
{
    const uint64_t n_step = settings_micro_batches(job);
    uint64_t lead = 1;
    for (size_t i = 0; i < job->n_teachers; i++) {
        const Kd__Teacher *teacher = job->teachers[i];
        const uint64_t n_replicas = teacher->resources->ranks;
        const uint64_t n_ahead =
            teacher->stream_depth * (job->student->resources->ranks + n_replicas);
        const uint64_t n_steps = (n_ahead + n_step - 1) / n_step;
        lead = n_replicas > 0 && n_steps > lead ? n_steps : lead;
    }
    return lead < KD_ORDER_LEAD_MAX ? (int)lead : KD_ORDER_LEAD_MAX;
}
