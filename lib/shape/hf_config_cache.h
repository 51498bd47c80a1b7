/*
 * hf_config_cache.h - config.json read once, for a program that is asked about the same few models
 * again and again.
 */
#ifndef KD_SHAPE_HF_CONFIG_CACHE_H
#define KD_SHAPE_HF_CONFIG_CACHE_H

#include "shape/hf_config.h"

/*
 * kd_hf_config_read() of config.json in `folder`, parsed once for an inode, its size and its time of
 * change; what does not parse is read again each time. What is no regular file is KD_ERR_INVALID, so
 * that nobody waits for a pipe. Blocks on the disk; may be called from any thread.
 */
KD_MUST_USE kd_status kd_hf_config_read_cached(const char *folder, kd_model_config *config_out);

#endif
