/*
 * numbered_model.h - a small model of any type whose element i has the value i + 1, so that each is told from
 * every other and from padding: for tests of model folders.
 *
 * What fails here fails the test that called.
 */
#ifndef KD_TESTS_NUMBERED_MODEL_H
#define KD_TESTS_NUMBERED_MODEL_H

#include "format/safetensors.h"
#include "model/parameters.h"

/* A fixture: a temporary folder (temporary.h), an f32 back end, and faults that are not logged. */
void numbered_enter(void);
void numbered_leave(void);
kd_backend *numbered_backend(void);

/* V 11, C 8, L 2, H 4, G 2, D 2, F 5, E 3, K 2, and a shared expert of 6 where the type has one. */
kd_model_config numbered_config(const kd_model_type *type);

/* Parameters on the fixture's back end: as they come, or numbered and for training. The caller destroys. */
kd_parameters *numbered_params(kd_model_config config, kd_parameter_use use);
kd_parameters *numbered_create(kd_model_config config);

/* A numbered model as the folder `path`. */
void numbered_save(const char *path, kd_model_config config, kd_dtype dtype);

/* The status of loading folder "m" into parameters of this shape. */
kd_status numbered_load(kd_model_config config);

/* Writes the tensors of "m/model.safetensors" as `path`, with values 0, after a change of their list. */
void numbered_rewrite(const char *path, void (*change)(kd_safetensors_spec *specs, size_t *n));

/* That of this name, which must be in the list. */
kd_safetensors_spec *numbered_spec(kd_safetensors_spec *specs, size_t n, const char *name);

#endif
