/*
 * world.h - who the ranks of a job are.
 *
 * World ranks 0..S-1 are students, rank 0 their leader; then come the replicas of teacher 0, those of
 * teacher 1, and so on, each replica one rank. A teacher i with R_i = 0 replicas is run by each student
 * itself. Micro-batch m belongs to student m mod S and to replica m mod R_i of each teacher that has some.
 *
 * Threads: the one that initialised MPI. MPI's own errors are KD_ERR_IO with its text.
 */
#ifndef KD_COMM_WORLD_H
#define KD_COMM_WORLD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "train/reduce.h"

typedef enum kd_role { KD_ROLE_STUDENT, KD_ROLE_TEACHER } kd_role;

typedef struct kd_world kd_world; /* holds the communicators */

/*
 * Collective over MPI_COMM_WORLD (initialised with MPI_THREAD_FUNNELED or more). Roles come later, so
 * that ranks can agree on what they read before. KD_MPI_DEVICE_MEMORY of the environment says, with yes or
 * no, whether MPI is given buffers in a GPU's memory; without it the MPI library is asked.
 */
KD_MUST_USE kd_status kd_world_create(kd_world **world_out);
/* Collective; NULL is fine. */
void kd_world_destroy(kd_world *world);

int kd_world_rank(const kd_world *world);
int kd_world_local_rank(const kd_world *world); /* among those of this host */
int kd_world_size(const kd_world *world);
bool kd_world_is_leader(const kd_world *world);

/* All ranks. From the leader to everyone; small. */
KD_MUST_USE kd_status kd_world_broadcast(kd_world *world, void *bytes, int size);

/* All ranks. The leader's text on every rank, malloc'ed; others come with NULL, which is "" of the leader's. */
KD_MUST_USE kd_status kd_world_share_text(kd_world *world, const char *mine, char **text_out);

/* All ranks: each value becomes the sum of every rank's; small. */
KD_MUST_USE kd_status kd_world_sum(kd_world *world, int64_t *values, int n);

/*
 * All ranks: KD_OK if every rank came with KD_OK, otherwise the same error everywhere: that of the
 * lowest rank that failed, with its fault text, so that every rank ends with the true reason. Waits
 * without burning a core, so one rank may work for minutes before it comes.
 */
KD_MUST_USE kd_status kd_world_agree(kd_world *world, kd_status mine);

/*
 * All ranks, once, with the same numbers: replicas (n_teachers) holds R_i, at least 0. KD_ERR_INVALID on
 * every rank if the world's size is not their sum and n_students together, naming both. What follows may
 * be called after it.
 */
KD_MUST_USE kd_status kd_world_assign(kd_world *world,
                                      int n_students,
                                      int n_teachers,
                                      const int *replicas);

kd_role kd_world_role(const kd_world *world);
/* Of a student its number among students, of a teacher its number among the replicas. */
int kd_world_role_rank(const kd_world *world);
/* Which teacher this rank is a replica of; only on teachers. */
int kd_world_teacher(const kd_world *world);
int kd_world_students(const kd_world *world);
int kd_world_replicas(const kd_world *world, int teacher);

/* The sums over student ranks that training needs; only on students. */
kd_reduce kd_world_reduce(kd_world *world);

#endif
