/* from_message.c - a job's Model, of which every field is there, as a shape. */
#include "shape/from_message.h"

void kd_model_message_complete(Kd__Model *model)
{
    if (!model->has_num_kv_heads && model->has_num_heads) {
        model->has_num_kv_heads = 1;
        model->num_kv_heads = model->num_heads;
    }
    if (!model->has_head_dim && model->has_hidden_size && model->num_heads > 0 &&
        model->hidden_size % model->num_heads == 0) {
        model->has_head_dim = 1;
        model->head_dim = model->hidden_size / model->num_heads;
    }
}

void kd_model_message_check_width(const Kd__Model *model, kd_checker *c, const char *path)
{
    if (!model->has_head_dim && model->hidden_size != 0 && model->num_heads != 0) {
        kd_checker_add(c, path,
                       "found nothing, expected a number: hidden_size (%u) is no multiple of "
                       "num_heads (%u)",
                       model->hidden_size, model->num_heads);
    }
}

kd_status
kd_model_config_from_message(const Kd__Model *m, int64_t max_positions, kd_model_config *config_out)
{
    kd_model_config config = {
        .vocab_size = m->vocab_size,
        .hidden_size = m->hidden_size,
        .n_layers = m->num_layers,
        .n_heads = m->num_heads,
        .n_kv_heads = m->num_kv_heads,
        .head_dim = m->head_dim,
        .intermediate_size = m->intermediate_size,
        .n_experts = m->num_experts,
        .experts_per_token = m->num_experts > 0 ? m->experts_per_token : 0,
        .shared_expert_size = m->shared_expert_size,
        .tied_embeddings = m->tied_embeddings,
        .rope_theta = m->rope_theta,
        .norm_eps = (float)m->norm_eps,
        .max_positions = max_positions,
    };
    const kd_status st = kd_model_type_find(m->type, "model.type", &config.type);
    if (st) {
        return st;
    }
    kd_model_config_apply_type(&config);
    *config_out = config;
    return KD_OK;
}
