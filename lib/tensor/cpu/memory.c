/*
 * Memory of tensors comes from the kernel's pages, not from malloc: pages are zero already, are
 * aligned, may be huge, and go back when they are freed.
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>

#include "base/log.h"
#include "tensor/cpu/cpu.h"

/* From this size on, huge pages save the products most of their address translation. */
#define HUGE_PAGES_FROM_BYTES ((size_t)4 << 20)

/* Stands in front of each allocation, because munmap wants the size back. */
typedef struct block_header {
    size_t mapped_bytes;
} block_header;

_Static_assert(sizeof(block_header) <= KD_ARENA_ALIGN, "the header fits in front");

/* Pages come zeroed, and cost nothing until they are touched. */
void *kd_cpu_pages_tried(size_t size_bytes, bool reserves)
{
    if (size_bytes > SIZE_MAX / 2) {
        return NULL;
    }
    const size_t mapped_bytes = size_bytes + KD_ARENA_ALIGN;
    void *base = mmap(NULL, mapped_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | (reserves ? 0 : MAP_NORESERVE), -1, 0);
    if (base == MAP_FAILED) {
        return NULL;
    }
    if (mapped_bytes >= HUGE_PAGES_FROM_BYTES) {
        /* Only advice: may be refused. A touch of what is not reserved should cost little. */
        (void)madvise(base, mapped_bytes, reserves ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    }
    *(block_header *)base = (block_header){mapped_bytes};
    return (char *)base + KD_ARENA_ALIGN;
}

void *kd_cpu_pages(size_t size_bytes, bool reserves)
{
    void *memory = kd_cpu_pages_tried(size_bytes, reserves);
    if (memory == NULL) {
        (void)kd_fail(KD_ERR_NOMEM, "no memory for %zu bytes", size_bytes);
    }
    return memory;
}

size_t kd_cpu_pages_bytes(const void *memory)
{
    if (memory == NULL) {
        return 0;
    }
    const void *base = (const char *)memory - KD_ARENA_ALIGN;
    return ((const block_header *)base)->mapped_bytes - KD_ARENA_ALIGN;
}

void kd_cpu_pages_free(void *memory)
{
    if (memory != NULL) {
        void *base = (char *)memory - KD_ARENA_ALIGN;
        KD_CHECK(munmap(base, ((const block_header *)base)->mapped_bytes) == 0);
    }
}
