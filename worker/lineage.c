/* The shards say what was held out, so a split is known by its tokens and not by what the job asked for. */
#include "worker/lineage.h"

#include <stdio.h>

#include "base/log.h"
#include "data/tokenizer.h"
#include "train/vocabulary.h"

/* The one kind there is. */
static kd_status open_tokenizer(kd_tokenizer **tokenizer_out)
{
    return kd_tokenizer_create(KD_TOKENIZER_BYTE, tokenizer_out);
}

static kd_lineage_split split_of(const Kd__Job *job, const batches *b)
{
    return (kd_lineage_split){
        .seed = job->data->split_seed,
        .held_out = job->data->held_out,
        .sequence_length = job->data->sequence_length,
        .train_hash = b->train.tokens_hash,
        .test_hash = b->has_test ? b->test.tokens_hash : 0,
    };
}

static kd_status check_model(const char *field,
                             const char *folder,
                             const kd_tokenizer *tokenizer,
                             const kd_lineage_split *split)
{
    const kd_status st = kd_vocabulary_check(folder, tokenizer);
    if (st) {
        return kd_fail(st, "%s: %s", field, kd_fault_text());
    }
    (void)kd_vocabulary_warn_of_split(field, folder, split);
    return KD_OK;
}

static kd_status check_models(const Kd__Job *job, const batches *b, const kd_tokenizer *tokenizer)
{
    const kd_lineage_split split = split_of(job, b);
    kd_status st = KD_OK;
    if (job->student->init == KD__STUDENT__INIT__CHECKPOINT) {
        st = check_model("student.checkpoint", job->student->checkpoint, tokenizer, &split);
    }
    for (size_t i = 0; i < job->n_teachers && !st; i++) {
        char field[48];
        (void)snprintf(field, sizeof field, "teachers.%zu.checkpoint", i);
        st = check_model(field, job->teachers[i]->checkpoint, tokenizer, &split);
    }
    return st;
}

kd_status lineage_check(const Kd__Job *job, const batches *b)
{
    kd_tokenizer *tokenizer;
    kd_status st = open_tokenizer(&tokenizer);
    if (!st) {
        st = check_models(job, b, tokenizer);
        kd_tokenizer_destroy(tokenizer);
    }
    return st;
}

kd_status lineage_add_files(void *files, const char *folder)
{
    const lineage_files *f = files;
    kd_tokenizer *tokenizer;
    kd_status st = open_tokenizer(&tokenizer);
    if (st) {
        return st;
    }
    kd_lineage lineage = {
        .tokenizer_hash = tokenizer->hash,
        .has_split = true,
        .split = split_of(f->job, f->batches),
    };
    (void)snprintf(lineage.tokenizer, sizeof lineage.tokenizer, "%s", tokenizer->name);
    st = kd_tokenizer_export(tokenizer, folder);
    if (!st) {
        st = kd_lineage_write(folder, &lineage);
    }
    kd_tokenizer_destroy(tokenizer);
    return st;
}
