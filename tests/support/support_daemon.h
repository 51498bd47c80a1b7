/*
 * support_daemon.h - a real distilld in a folder of its own, and a client that blocks: for tests that
 * need more say over bytes and moments than distillctl gives.
 *
 * Checks within end the program with a message: a test that cannot start a daemon has nothing to test.
 */
#ifndef KD_SUPPORT_DAEMON_H
#define KD_SUPPORT_DAEMON_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "proto/control.pb-c.h"

/* Ends the program, with the text, if the condition does not hold. */
#define SUPPORT_REQUIRE(condition, ...)                                                            \
    ((condition) ? (void)0 : support_fail(__FILE__, __LINE__, #condition, __VA_ARGS__))
__attribute__((noreturn, format(printf, 4, 5))) void
support_fail(const char *file, int line, const char *condition, const char *format, ...);

typedef struct support_daemon {
    char folder[64];       /* of the test; the state is in folder/state */
    char socket[128];      /* the path of its Unix socket */
    pid_t pid;             /* 0: not running */
    size_t file_bytes_max; /* 0: no limit; else its writes beyond fail, as on a full disk */
} support_daemon;

/* Makes the folder with a text file `text.txt` and a configuration from `config_yaml`. */
void support_daemon_init(support_daemon *d, const char *config_yaml);
/* Starts it and waits for its ready line; `worker` NULL: the one next to distilld. */
void support_daemon_start(support_daemon *d, const char *worker);
/* Sends a signal and waits for the end; the wait status. */
int support_daemon_end(support_daemon *d, int signal);
/* Kills what runs and removes the folder. */
void support_daemon_release(support_daemon *d);

/* A connected descriptor, -1 if nobody listens; reads and writes give up after 10 s. */
int support_connect(const support_daemon *d);
bool support_send_bytes(int fd, const void *bytes, size_t n_bytes);
bool support_send(int fd, const ProtobufCMessage *message);
/* The next frame, malloc'ed; NULL at the end of the stream. */
uint8_t *support_receive(int fd, size_t *n_bytes_out);
/* True if the peer closes without another frame. */
bool support_is_closed(int fd);

/* Connects and says hello; -1 if that does not work out. */
int support_open(const support_daemon *d, Kd__Hello__Role role);

/* One request and its (first) reply, to be freed; NULL if the connection broke. */
Kd__Reply *support_ask(int fd, Kd__Request *request);
/* Submits support_job(); `text` YAML fields on top of it may be NULL. */
Kd__Reply *support_submit(const support_daemon *d, int fd, const char *token, const char *text);
/* The state of a job and its status; the caller frees the reply. */
Kd__Reply *support_show(int fd, uint64_t job_id);
/* Waits up to 20 s for a state, and returns the status then. */
Kd__Reply *support_wait(const support_daemon *d, uint64_t job_id, Kd__JobState state);

#endif
