/* Starting programs of one's own container: sampan:process/spawn@0.1.0. docs/guests.md says what each function does.
 *
 * Every function returns 0 or an errno of WASI 0.1, which are those of wasi-libc's <errno.h>. */
#ifndef SAMPAN_PROCESS_H
#define SAMPAN_PROCESS_H

#include <stddef.h>
#include <stdint.h>

#define SAMPAN_IMPORT(name) __attribute__((import_module("sampan:process/spawn@0.1.0"), import_name(name)))

/* A string: as __wasi_ciovec_t. */
typedef struct {
    const char *start;
    size_t length;
} sampan_text;

/* A stream of the new program: 0, 1 or 2 there is this descriptor here, or SAMPAN_NONE. */
typedef struct {
    uint32_t theirs;
    uint32_t ours;
} sampan_stream;

#define SAMPAN_NONE UINT32_MAX
#define SAMPAN_NO_HANG 1u

SAMPAN_IMPORT("spawn")
int32_t sampan_spawn(const char *path, size_t path_length, const sampan_text *args, size_t arg_count,
                     const sampan_text *env, size_t env_count, const char *cwd, size_t cwd_length,
                     const sampan_stream *map, size_t map_count, uint32_t *id);

SAMPAN_IMPORT("pipe") int32_t sampan_pipe(uint32_t *reader, uint32_t *writer);

SAMPAN_IMPORT("wait") int32_t sampan_wait(uint32_t id, uint32_t flags, uint32_t *ended, uint32_t *code);

SAMPAN_IMPORT("kill") int32_t sampan_kill(uint32_t id, uint32_t signal);

SAMPAN_IMPORT("id") uint32_t sampan_id(void);

#endif
