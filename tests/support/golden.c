#include "tests/support/golden.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "format/safetensors.h"

static void give_up(const char *what, const char *where)
{
    (void)fprintf(stderr, "golden file: %s: %s\n", where, what);
    abort();
}

static char kind_of(const kd_safetensors_entry *entry)
{
    static const char kinds[KD_SAFETENSORS_DTYPE_COUNT] = {
        [KD_SAFETENSORS_F32] = 'f',
        [KD_SAFETENSORS_F64] = 'd',
        [KD_SAFETENSORS_I32] = 'i',
        [KD_SAFETENSORS_I64] = 'q',
    };
    return kinds[entry->dtype];
}

/* A copy: what lies in the file may be of any alignment. */
static golden_record copy(const kd_safetensors_entry *entry)
{
    golden_record r = {
        .kind = kind_of(entry),
        .n_dims = entry->n_dims,
        .dims = {1, 1, 1},
        .n_elements = entry->n_elements,
    };
    if (strlen(entry->name) >= sizeof r.name || entry->n_dims > GOLDEN_DIMS_MAX || r.kind == '\0' ||
        entry->n_elements == 0) {
        give_up("a name, shape or dtype beyond what is expected", entry->name);
    }
    r.data = malloc(entry->size_bytes);
    if (r.data == NULL) {
        give_up("no memory", entry->name);
    }
    (void)strcpy(r.name, entry->name);
    memcpy(r.dims, entry->dims, (size_t)entry->n_dims * sizeof *r.dims);
    memcpy(r.data, entry->data, entry->size_bytes);
    return r;
}

golden golden_read(const char *path)
{
    kd_safetensors *file = NULL;
    if (kd_safetensors_open(path, &file)) {
        give_up(kd_fault_text(), path);
    }
    const size_t n = kd_safetensors_count(file);
    golden g = {.records = calloc(n, sizeof *g.records), .n_records = (int)n};
    if (g.records == NULL) {
        give_up("no memory", path);
    }
    for (size_t i = 0; i < n; i++) {
        g.records[i] = copy(kd_safetensors_at(file, i));
    }
    kd_safetensors_close(file);
    return g;
}

void golden_release(golden *g)
{
    for (int i = 0; i < g->n_records; i++) {
        free(g->records[i].data);
    }
    free(g->records);
    *g = (golden){0};
}

const golden_record *golden_find(const golden *g, const char *name, char kind)
{
    for (int i = 0; i < g->n_records; i++) {
        if (strcmp(g->records[i].name, name) == 0 && g->records[i].kind == kind) {
            return &g->records[i];
        }
    }
    give_up("no record of this name and kind", name);
    return NULL;
}

kd_model_config golden_config(const golden *g)
{
    const int64_t *n = golden_find(g, "config", 'q')->data;
    const double *real = golden_find(g, "config_real", 'd')->data;

    return (kd_model_config){
        .type = kd_model_type_at((size_t)n[0]),
        .vocab_size = n[1],
        .hidden_size = n[2],
        .n_layers = n[3],
        .n_heads = n[4],
        .n_kv_heads = n[5],
        .head_dim = n[6],
        .intermediate_size = n[7],
        .n_experts = n[8],
        .experts_per_token = n[9],
        .shared_expert_size = n[10],
        .norm_topk = n[11] != 0,
        .qkv_bias = n[12] != 0,
        .tied_embeddings = n[13] != 0,
        .qk_norm = (kd_qk_norm)n[14],
        .window = n[15],
        .rope_theta = real[0],
        .norm_eps = (float)real[1],
    };
}
