/*
 * test_ipc.cu - memory of the device that two processes share. The other process is this program again, since a
 * process that has used the runtime may not fork: its part is the suite "other", told what to do by the
 * environment, which gets handles on one pipe and answers with bytes on another.
 */
#include "harness.h"

#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "tensor/ops.h"

enum { WIDE = 1000, FLOATS = 3 * WIDE + 1, TO_OTHER = 60, FROM_OTHER = 61 };

static kd_backend *create()
{
    kd_backend *be = nullptr;
    if (kd_backend_create_cuda(KD_F32, 0, &be))
        abort();
    return be;
}

static float *take(kd_backend *be, int64_t n)
{
    void *memory = be->ops->alloc(be, KD_MEMORY_DEVICE, (size_t)n * sizeof(float));
    if (!memory)
        abort();
    return (float *)memory;
}

static std::vector<float> read(kd_backend *be, float *memory, int64_t n)
{
    std::vector<float> got((size_t)n);
    be->ops->download(be, got.data(), kd_tensor_1d(memory, KD_F32, n));
    KD_EXPECT(kd_backend_wait(be) == KD_OK, "a download");
    return got;
}

static std::vector<float> numbers(int64_t n, float factor)
{
    std::vector<float> v((size_t)n);
    for (size_t i = 0; i < v.size(); i++)
        v[i] = factor * (float)(i + 1);
    return v;
}

static void write(kd_backend *be, float *memory, const std::vector<float> &v)
{
    be->ops->upload(be, kd_tensor_1d(memory, KD_F32, (int64_t)v.size()), v.data());
    KD_EXPECT(kd_backend_wait(be) == KD_OK, "an upload");
}

/* ---- the two processes ---- */

struct other {
    pid_t pid;
    int to, from;
};

static other start(const char *role, bool shares = true)
{
    int to[2], from[2];
    if (pipe(to) || pipe(from))
        abort();
    fflush(stdout);
    const pid_t pid = fork();
    if (pid == 0) {
        dup2(to[0], TO_OTHER);
        dup2(from[1], FROM_OTHER);
        for (int file : {to[0], to[1], from[0], from[1]})
            close(file);
        setenv("KD_TEST_OTHER", role, 1);
        if (!shares)
            setenv("KD_CUDA_HOST_IPC", "0", 1);
        execl("/proc/self/exe", "other", "other", (char *)nullptr);
        _exit(127);
    }
    close(to[0]);
    close(from[1]);
    return {pid, to[1], from[0]};
}

template <class T> void send(int file, const T &value)
{
    if (::write(file, &value, sizeof value) != (ssize_t)sizeof value)
        abort();
}

template <class T> T receive(int file)
{
    T value = {};
    const ssize_t n = ::read(file, &value, sizeof value);
    KD_EXPECT(n == (ssize_t)sizeof value, "the other process has ended");
    return value;
}

static void finish(const other &o)
{
    int status = -1;
    close(o.to);
    KD_EXPECT(waitpid(o.pid, &status, 0) == o.pid && status == 0, std::to_string(status));
    close(o.from);
}

/* ---- what the other one does ---- */

static float *import(kd_backend *be)
{
    const kd_memory_handle handle = receive<kd_memory_handle>(TO_OTHER);
    void *memory = nullptr;
    KD_EXPECT(handle.size_bytes == FLOATS * sizeof(float), std::to_string(handle.size_bytes));
    KD_EXPECT(be->ops->memory_import(be, &handle, &memory) == KD_OK, kd_fault_text());
    if (!memory)
        exit(1);
    return (float *)memory;
}

static void be_a_reader_and_writer(kd_backend *be)
{
    float *memory = import(be);
    KD_EXPECT(read(be, memory, FLOATS) == numbers(FLOATS, 1), "what the first wrote");
    write(be, memory + WIDE, numbers(WIDE, -1));
    be->ops->add(be, kd_tensor_1d(memory, KD_F32, WIDE), kd_tensor_1d(memory + WIDE, KD_F32, WIDE));
    KD_EXPECT(kd_backend_wait(be) == KD_OK, "a kernel");
    send(FROM_OTHER, 'w');
    receive<char>(TO_OTHER);
    KD_EXPECT(read(be, memory, 1)[0] == 7, "what the first wrote afterwards");
    be->ops->free(be, memory);
}

static void count(kd_backend *be)
{
    size_t before = 0, after = 0, total = 0;
    KD_EXPECT(!cudaMemGetInfo(&before, &total), "info");
    float *first = import(be), *second = import(be);
    KD_EXPECT(be->ops->memory_usage(be).held_bytes == 0, "it is not this one's");
#ifndef __CUDACC__
    KD_EXPECT(!cudaMemGetInfo(&after, &total) && after == before, std::to_string(after));
#endif
    float *own = take(be, 8);
    KD_EXPECT(be->ops->memory_usage(be).held_bytes == 8 * sizeof(float), "this is");
    be->ops->free(be, first);
    KD_EXPECT(read(be, second, 2) == numbers(2, 1), "open twice, given back once");
    be->ops->free(be, second);
    KD_EXPECT(be->ops->memory_usage(be).held_bytes == 8 * sizeof(float), "and stays so");
    write(be, own, numbers(8, 3));
    KD_EXPECT(read(be, own, 8) == numbers(8, 3), "where others were");
    be->ops->free(be, own);
}

static void hold(kd_backend *be)
{
    import(be);
    send(FROM_OTHER, 'h');
    receive<char>(TO_OTHER);
    _exit(0); /* with the memory still open */
}

/* Expects a handle that leads to nothing. */
static void ask_in_vain(kd_backend *be)
{
    const kd_memory_handle handle = receive<kd_memory_handle>(TO_OTHER);
    void *memory = nullptr;
    const kd_status st = be->ops->memory_import(be, &handle, &memory);
    KD_EXPECT(st == KD_ERR_NOT_FOUND && !memory, std::to_string(st));
    KD_EXPECT(be->fault == KD_OK && kd_backend_wait(be) == KD_OK, "no fault of the back end");
    float *own = take(be, 4);
    write(be, own, numbers(4, 1));
    KD_EXPECT(read(be, own, 4) == numbers(4, 1), "which goes on");
    be->ops->free(be, own);
}

static void ask_without_support(kd_backend *be)
{
    float *own = take(be, 4);
    kd_memory_handle handle;
    KD_EXPECT(be->ops->memory_export(be, own, &handle) == KD_ERR_NOT_FOUND, "an export");
    be->ops->free(be, own);
    ask_in_vain(be);
}

KD_TEST(other, does_what_it_is_told)
{
    const char *role = getenv("KD_TEST_OTHER");
    const std::string name = role ? role : "";
    if (name.empty()) /* all suites were asked for */
        return;
    kd_backend *be = create();
    if (name == "reads and writes")
        be_a_reader_and_writer(be);
    else if (name == "counts")
        count(be);
    else if (name == "holds")
        hold(be);
    else if (name == "asks in vain")
        ask_in_vain(be);
    else if (name == "asks without support")
        ask_without_support(be);
    else
        abort();
    kd_backend_destroy(be);
}

/* ---- what the first one does ---- */

struct shared {
    kd_backend *be;
    float *memory;
    kd_memory_handle handle;
};

/* Of a size that ends within a page, between others. */
static shared share()
{
    shared s = {create(), nullptr, {}};
    float *before = take(s.be, 5);
    s.memory = take(s.be, FLOATS);
    write(s.be, s.memory, numbers(FLOATS, 1));
    KD_EXPECT(s.be->ops->memory_export(s.be, s.memory, &s.handle) == KD_OK, kd_fault_text());
    KD_EXPECT(read(s.be, s.memory, FLOATS) == numbers(FLOATS, 1), "exported, it stays as it was");
    s.be->ops->free(s.be, before);
    return s;
}

static void end(const shared &s)
{
    s.be->ops->free(s.be, s.memory);
    KD_EXPECT(s.be->ops->memory_usage(s.be).held_bytes == 0, "nothing is left");
    KD_EXPECT(kd_backend_wait(s.be) == KD_OK, "and no fault");
    kd_backend_destroy(s.be);
}

KD_TEST(ipc, two_processes_see_what_either_writes)
{
    const shared s = share();
    const other o = start("reads and writes");
    send(o.to, s.handle);
    receive<char>(o.from);
    KD_EXPECT(read(s.be, s.memory, WIDE) == numbers(WIDE, 0), "x + -x by a kernel there");
    KD_EXPECT(read(s.be, s.memory + WIDE, WIDE) == numbers(WIDE, -1), "a copy there");
    write(s.be, s.memory, {7});
    send(o.to, 'w');
    finish(o);
    end(s);
}

KD_TEST(ipc, memory_counts_where_it_was_allocated)
{
    const shared s = share();
    const other o = start("counts");
    send(o.to, s.handle);
    send(o.to, s.handle);
    finish(o);
    KD_EXPECT(s.be->ops->memory_usage(s.be).held_bytes == FLOATS * sizeof(float), "here");
    end(s);
}

KD_TEST(ipc, a_process_that_ends_gives_back_what_it_had_open)
{
    const shared s = share();
    const other o = start("holds");
    send(o.to, s.handle);
    receive<char>(o.from);
    send(o.to, 'e');
    finish(o);
    end(s);
}

KD_TEST(ipc, a_process_does_not_import_its_own)
{
    const shared s = share();
    void *memory = nullptr;
    KD_EXPECT(s.be->ops->memory_import(s.be, &s.handle, &memory) == KD_ERR_NOT_FOUND, "declined");
    KD_EXPECT(!memory && strstr(kd_fault_text(), "invalid device context"), kd_fault_text());
    end(s);
}

KD_TEST(ipc, host_memory_has_no_handle)
{
    const shared s = share();
    void *memory = s.be->ops->alloc(s.be, KD_MEMORY_HOST, 64);
    kd_memory_handle handle;
    KD_EXPECT(s.be->ops->memory_export(s.be, memory, &handle) == KD_ERR_NOT_FOUND, "declined");
    s.be->ops->free(s.be, memory);
    end(s);
}

KD_TEST(ipc, bytes_that_are_no_handle_are_refused)
{
    const shared s = share();
    kd_memory_handle wrong = s.handle;
    void *memory = nullptr;
    const int quiet = kd_fault_quiet(1);
    wrong.bytes[0] ^= 1;
    KD_EXPECT(s.be->ops->memory_import(s.be, &wrong, &memory) == KD_ERR_PROTO, "another kind");
    wrong = {};
    KD_EXPECT(s.be->ops->memory_import(s.be, &wrong, &memory) == KD_ERR_PROTO, "zeros");
    wrong = s.handle;
    wrong.size_bytes = 0;
    KD_EXPECT(s.be->ops->memory_import(s.be, &wrong, &memory) == KD_ERR_PROTO, "no bytes");
    kd_fault_quiet(quiet);
    wrong = s.handle;
    wrong.bytes[8] ^= 1;
    KD_EXPECT(s.be->ops->memory_import(s.be, &wrong, &memory) == KD_ERR_NOT_FOUND, "another host");
    KD_EXPECT(strstr(kd_fault_text(), "another host") && !memory, kd_fault_text());
    end(s);
}

#ifndef __CUDACC__
/* Bytes of the runtime's part of a handle: its kind, the process, the file, the device, the inode, the place. */
KD_TEST(ipc, a_handle_that_names_nothing_is_declined)
{
    const shared s = share();
    for (size_t at : {0, 8, 12, 16, 24, 32}) {
        kd_memory_handle wrong = s.handle;
        wrong.bytes[48 + at] ^= 0x40;
        const other o = start("asks in vain");
        send(o.to, wrong);
        finish(o);
    }
    end(s);
}

KD_TEST(ipc, memory_that_was_freed_is_not_to_be_had)
{
    const shared s = share();
    s.be->ops->free(s.be, s.memory);
    const other o = start("asks in vain");
    send(o.to, s.handle);
    finish(o);
    kd_backend_destroy(s.be);
}

KD_TEST(ipc, a_device_that_cannot_says_so)
{
    const shared s = share();
    const other o = start("asks without support", false);
    send(o.to, s.handle);
    finish(o);
    end(s);
}

KD_TEST(ipc, memory_freed_under_another_process_is_found)
{
    const shared s = share();
    const other o = start("holds");
    send(o.to, s.handle);
    receive<char>(o.from);
    s.be->ops->free(s.be, s.memory);
    const std::string fault = kd_cuda_host_last_fault();
    KD_EXPECT(fault.find("another process has open") != std::string::npos, fault);
    kd_cuda_host_recover();
    send(o.to, 'e');
    finish(o);
    kd_backend_destroy(s.be);
}
#endif
