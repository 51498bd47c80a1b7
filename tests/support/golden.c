#include "tests/support/golden.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char magic[8] = "kdgold1\n";

static void give_up(const char *what, const char *where)
{
    (void)fprintf(stderr, "golden file: %s: %s\n", where, what);
    abort();
}

static size_t kind_bytes(char kind)
{
    return kind == 'f' || kind == 'i' ? 4 : 8;
}

static void take(FILE *file, void *out, size_t size, const char *path)
{
    if (size > 0 && fread(out, size, 1, file) != 1) {
        give_up("ends too early", path);
    }
}

/* One record, its name's length being read already. */
static golden_record read_record(FILE *file, int name_length, const char *path)
{
    golden_record r = {.dims = {1, 1, 1}, .n_elements = 1};
    uint8_t kind_and_dims[2];
    uint32_t dims[GOLDEN_DIMS_MAX] = {0};

    if (name_length >= (int)sizeof r.name) {
        give_up("a name is too long", path);
    }
    take(file, r.name, (size_t)name_length, path);
    take(file, kind_and_dims, sizeof kind_and_dims, path);
    r.kind = (char)kind_and_dims[0];
    r.n_dims = kind_and_dims[1];
    if (r.n_dims > GOLDEN_DIMS_MAX) {
        give_up("too many dims", path);
    }
    take(file, dims, (size_t)r.n_dims * sizeof *dims, path);
    for (int i = 0; i < r.n_dims; i++) {
        r.dims[i] = dims[i];
        r.n_elements *= r.dims[i];
    }
    if (r.n_elements == 0) {
        give_up("an empty record", path);
    }
    const size_t size = (size_t)r.n_elements * kind_bytes(r.kind);
    r.data = malloc(size);
    if (r.data == NULL) {
        give_up("no memory", path);
    }
    take(file, r.data, size, path);
    return r;
}

golden golden_read(const char *path)
{
    golden g = {0};
    char start[sizeof magic];
    FILE *file = fopen(path, "rb");

    if (file == NULL) {
        give_up("cannot be opened", path);
    }
    take(file, start, sizeof start, path);
    if (memcmp(start, magic, sizeof magic) != 0) {
        give_up("is none", path);
    }
    for (int length = fgetc(file); length != EOF; length = fgetc(file)) {
        golden_record *more = realloc(g.records, (size_t)(g.n_records + 1) * sizeof *more);
        if (more == NULL) {
            give_up("no memory", path);
        }
        g.records = more;
        g.records[g.n_records++] = read_record(file, length, path);
    }
    (void)fclose(file);
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
        .type = (kd_model_type)n[0],
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
        .rope_theta = real[0],
        .norm_eps = (float)real[1],
    };
}
