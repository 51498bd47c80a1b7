/*
 * safetensors_density.h - what cannot be the header of a safetensors file, told from its text alone; private
 * to safetensors.c.
 *
 * A tree of JSON takes up to fifty times the memory of its text: a header of zeros, or of empty objects, is
 * refused before a tree is made of it.
 */
#ifndef KD_FORMAT_SAFETENSORS_DENSITY_H
#define KD_FORMAT_SAFETENSORS_DENSITY_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* KD_ERR_PROTO: more values, objects or members than tensors have in so many bytes; `path` is for the text. */
KD_MUST_USE kd_status kd_safetensors_check_density(const char *path,
                                                   const uint8_t *bytes,
                                                   size_t length);

#endif
