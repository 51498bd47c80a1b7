/*
 * hf_names.h - where each Hugging Face tensor of a model lies in our flat numbering.
 *
 * Parameters that are fused here (queries, keys and values; gate and up; the experts of a layer) are
 * tensors of their own in a checkpoint. Every one of those is a contiguous range, since fusing puts
 * rows below rows, and experts behind experts.
 *
 * Pure. Threads: any.
 */
#ifndef KD_FORMAT_HF_NAMES_H
#define KD_FORMAT_HF_NAMES_H

#include <stddef.h>
#include <stdint.h>

#include "model/parameters.h"

#define KD_HF_NAME_BYTES 112

typedef struct kd_hf_tensor {
    char name[KD_HF_NAME_BYTES]; /* "model.layers.0.self_attn.q_proj.weight" */
    int n_dims;                  /* 1 or 2                                   */
    int64_t dims[2];             /* an unused one is 1                       */
    int64_t offset;              /* first element in the flat numbering      */
    int64_t n_elements;
} kd_hf_tensor;

/*
 * All tensors of the model, in the order of the flat numbering: none overlap, none are left out.
 * The list is malloc'ed, the caller's to free. Reads config, table and n_elements only.
 * KD_ERR_NOMEM.
 */
KD_MUST_USE kd_status kd_hf_tensors_list(const kd_parameters *params,
                                         kd_hf_tensor **tensors_out,
                                         size_t *n_tensors_out);

#endif
