/* content.c - a seal has the hashes of every byte: there both depths come to the same. */
#include "train/content.h"

#include "format/identity.h"
#include "format/manifest.h"

kd_status kd_model_content(const char *path,
                           const char *folder,
                           Kd__Verify verify,
                           kd_job_content *content_out)
{
    const bool is_full = verify == KD__VERIFY__FULL;
    kd_job_content content = {.path = path, .is_whole = is_full && !kd_manifest_exists(folder)};
    const kd_status st = kd_model_folder_identity(
        folder, is_full ? KD_IDENTITY_FULL : KD_IDENTITY_EDGES, &content.hash);
    if (!st) {
        *content_out = content;
    }
    return st;
}
