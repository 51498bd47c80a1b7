#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/progress.h"
#include "format/identity.h"
#include "format/manifest.h"
#include "format/safetensors.h"
#include "tests/support/fault.h"
#include "tests/support/temporary.h"

/* Elements of the tensor "b": more than two edges. */
enum { N_LARGE = 4 * KD_IDENTITY_EDGE_BYTES };

/* A file of the tensors a (3) and b (N_LARGE); element `at` of b has the value `value`, others count. */
static void write_tensors(const char *path, int64_t at, float value)
{
    const kd_safetensors_spec specs[] = {
        {.name = "a", .dtype = KD_SAFETENSORS_F32, .n_dims = 1, .dims = {3}},
        {.name = "b", .dtype = KD_SAFETENSORS_F32, .n_dims = 1, .dims = {N_LARGE}},
    };
    kd_safetensors_writer *writer;
    float *values = malloc(N_LARGE * sizeof *values);
    for (int i = 0; i < N_LARGE; i++) {
        values[i] = (float)i;
    }
    cr_assert(eq(int, kd_safetensors_create(path, specs, 2, &writer), KD_OK));
    cr_assert(eq(int, kd_safetensors_write_f32(writer, values, 3), KD_OK));
    values[at] = value;
    cr_assert(eq(int, kd_safetensors_write_f32(writer, values, N_LARGE), KD_OK));
    cr_assert(eq(int, kd_safetensors_commit(writer), KD_OK));
    free(values);
}

static void make_folder(const char *folder, const char *tensors_path)
{
    cr_assert(eq(int, kd_folder_make(folder), KD_OK));
    char *config = kd_path_join(folder, "config.json");
    temporary_write(config, "{}");
    free(config);
    write_tensors(tensors_path, 0, 0.0f);
}

static void enter(void)
{
    temporary_enter();
    kd_fault_quiet(1);
    make_folder("m", "m/model.safetensors");
}

TestSuite(identity, .init = enter, .fini = temporary_leave);

static uint64_t identity_of(const char *folder, kd_identity_depth depth)
{
    uint64_t identity = 0;
    cr_assert(eq(int, kd_model_folder_identity(folder, depth, &identity), KD_OK), "%s",
              kd_fault_text());
    return identity;
}

Test(identity, follows_the_contents_and_not_the_path)
{
    make_folder("other", "other/model.safetensors");
    cr_expect(identity_of("m", KD_IDENTITY_EDGES) == identity_of("other", KD_IDENTITY_EDGES));
    cr_expect(identity_of("m", KD_IDENTITY_FULL) == identity_of("other", KD_IDENTITY_FULL));
}

Test(identity, sees_the_configuration_and_both_ends_of_a_tensor)
{
    const uint64_t before = identity_of("m", KD_IDENTITY_EDGES);
    temporary_write("m/config.json", "{ }");
    cr_expect(identity_of("m", KD_IDENTITY_EDGES) != before);
    temporary_write("m/config.json", "{}");
    write_tensors("m/model.safetensors", 1, -1.0f);
    cr_expect(identity_of("m", KD_IDENTITY_EDGES) != before);
    write_tensors("m/model.safetensors", N_LARGE - 1, -1.0f);
    cr_expect(identity_of("m", KD_IDENTITY_EDGES) != before);
}

Test(identity, sees_the_middle_of_a_tensor_only_when_all_is_read)
{
    const uint64_t edges = identity_of("m", KD_IDENTITY_EDGES);
    const uint64_t full = identity_of("m", KD_IDENTITY_FULL);
    write_tensors("m/model.safetensors", N_LARGE / 2, -1.0f);
    cr_expect(identity_of("m", KD_IDENTITY_EDGES) == edges);
    cr_expect(identity_of("m", KD_IDENTITY_FULL) != full);
}

Test(identity, of_a_sealed_folder_is_that_of_its_manifest)
{
    cr_assert(eq(int, kd_manifest_write("m"), KD_OK));
    const uint64_t sealed = identity_of("m", KD_IDENTITY_EDGES);
    cr_expect(identity_of("m", KD_IDENTITY_FULL) == sealed);

    write_tensors("m/model.safetensors", N_LARGE / 2, -1.0f);
    uint64_t identity = 7;
    cr_expect(eq(int, kd_model_folder_identity("m", KD_IDENTITY_FULL, &identity), KD_ERR_INVALID));
    EXPECT_FAULT("m/model.safetensors has the hash");
    cr_expect(identity == 7);
    cr_assert(eq(int, kd_manifest_write("m"), KD_OK));
    cr_expect(identity_of("m", KD_IDENTITY_EDGES) != sealed);
}

Test(identity, a_process_that_is_to_end_reads_no_more)
{
    uint64_t identity = 7;
    kd_progress_stop();
    cr_expect(eq(int, kd_model_folder_identity("m", KD_IDENTITY_EDGES, &identity), KD_ERR_STOPPED));
    cr_expect(eq(int, kd_model_folder_identity("m", KD_IDENTITY_FULL, &identity), KD_ERR_STOPPED));
    EXPECT_FAULT("asked to end");
    cr_expect(identity == 7);
}

/* What no reader of a configuration would take. */
Test(identity, of_a_configuration_that_is_too_large_there_is_none)
{
    uint64_t identity;
    char *text = malloc((1 << 20) + 2);
    memset(text, ' ', (1 << 20) + 1);
    text[(1 << 20) + 1] = '\0';
    temporary_write("m/config.json", text);
    free(text);
    cr_expect(eq(int, kd_model_folder_identity("m", KD_IDENTITY_EDGES, &identity), KD_ERR_INVALID));
    EXPECT_FAULT("m/config.json is too large: expected at most 1048576 bytes");
}

Test(identity, tells_what_is_missing)
{
    uint64_t identity;
    cr_expect(
        eq(int, kd_model_folder_identity("none", KD_IDENTITY_EDGES, &identity), KD_ERR_NOT_FOUND));
    EXPECT_FAULT("none/config.json");
    temporary_write("m/model.safetensors", "short");
    cr_expect(eq(int, kd_model_folder_identity("m", KD_IDENTITY_EDGES, &identity), KD_ERR_PROTO));
    EXPECT_FAULT("m/model.safetensors");
}
