/*
 * manifest.h - the seal of a checkpoint folder.
 *
 * manifest.json lists every file of the folder with its size and XXH3-64 hash. It is written last,
 * after all of them reached the disk, so a folder whose manifest verifies is complete and unharmed;
 * any other is not resumed from.
 *
 *   {"files": {"config.json": {"size": 712, "xxh3": "0123456789abcdef"}, ...}, "version": 1}
 *
 * Folders inside the folder, hidden files and *.tmp are not part of it.
 * Writing and verifying read every byte of every file.
 *
 * Threads: any. Blocks on the disk.
 */
#ifndef KD_FORMAT_MANIFEST_H
#define KD_FORMAT_MANIFEST_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

#define KD_MANIFEST_NAME "manifest.json"

bool kd_manifest_exists(const char *folder);

/* Fsyncs the files, then writes the manifest, fsyncs it and the folder. KD_ERR_ARG: a name is not UTF-8. */
KD_MUST_USE kd_status kd_manifest_write(const char *folder);

/*
 * KD_OK only if every listed file is there with its size and hash. KD_ERR_NOT_FOUND: there is no
 * manifest. KD_ERR_PROTO: it does not parse. KD_ERR_INVALID names the first file that differs.
 */
KD_MUST_USE kd_status kd_manifest_verify(const char *folder);

/*
 * KD_OK only if the manifest lists each of these names, which NULL ends: what a reader opens beyond them
 * no hash vouches for. KD_ERR_INVALID names the first that is not listed; else as kd_manifest_verify().
 */
KD_MUST_USE kd_status kd_manifest_lists(const char *folder, const char *const *names);

/* The same, and of these files alone that they are there with their size and hash. */
KD_MUST_USE kd_status kd_manifest_verify_files(const char *folder, const char *const *names);

/*
 * Whether a folder may be replaced as a whole: KD_OK where it is not there, holds nothing, or nothing but
 * its manifest and the files that this lists, whatever they hold by now. KD_ERR_INVALID names the first
 * entry that is somebody else's. Reads no file but the manifest.
 */
KD_MUST_USE kd_status kd_manifest_covers(const char *folder);

/*
 * XXH3-64 over what the manifest lists: name, size and hash of each file in the order of names. Reads the
 * manifest alone. Faults as above but KD_ERR_INVALID.
 */
KD_MUST_USE kd_status kd_manifest_digest(const char *folder, uint64_t *digest_out);

#endif
