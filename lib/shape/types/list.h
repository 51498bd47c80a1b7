/*
 * list.h - every type of model, one line each: KD_MODEL_TYPE(name) is the row kd_model_<name> of the
 * file <name>.c beside this one. No include guard: who includes it says what a line becomes.
 */
KD_MODEL_TYPE(llama)
KD_MODEL_TYPE(mixtral)
KD_MODEL_TYPE(qwen2_moe)
KD_MODEL_TYPE(qwen3_moe)
KD_MODEL_TYPE(olmoe)
