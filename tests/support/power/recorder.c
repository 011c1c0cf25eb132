/* Logs what a process does to files and folders, one line a call, in the order in which it happened.

   Preloaded (LD_PRELOAD) into a process whose environment names the log (RECORDER_LOG) and the folder that is
   of interest (RECORDER_ROOT). The interpreter and its extensions reach the system through these functions of
   the C library; a call that went another way would show, since recording.py compares the log with the disk.

   A line has its fields separated by tabs: the name of the call, then what it was given. Files are named by
   their inode, so that neither descriptors nor renames need to be followed; names are absolute paths. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#define CLONE_FILE 0x40049409
#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static int log_descriptor = -1;
static char root[PATH_MAX];
static size_t root_length;
/* Held over a call and its line, so that lines are in the order of what happened. */
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void begin(void) {
    const char *file = getenv("RECORDER_LOG"), *folder = getenv("RECORDER_ROOT");
    if (!file || !folder) return;
    snprintf(root, sizeof root, "%s", folder);
    root_length = strlen(root);
    log_descriptor = (int)syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    unsetenv("LD_PRELOAD"); /* what this process starts is not recorded */
}

static void put(const char *line, size_t size) {
    while (size) {
        long written = syscall(SYS_write, log_descriptor, line, size);
        if (written <= 0) abort();
        line += written;
        size -= (size_t)written;
    }
}

static void note(const char *format, ...) {
    char line[3 * PATH_MAX];
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    put(line, (size_t)size);
}

static int inside(const char *path) {
    return !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

/* The absolute path of a name, as it was given; whether it is of interest. */
static int locate(int folder, const char *name, char *found) {
    if (log_descriptor < 0 || !name) return 0;
    char base[PATH_MAX] = "", link[64];
    if (name[0] != '/') {
        if (folder == AT_FDCWD) {
            if (!getcwd(base, sizeof base)) return 0;
        } else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
            ssize_t size = readlink(link, base, sizeof base - 1);
            if (size < 0) return 0;
            base[size] = 0;
        }
        if (strlen(base) + strlen(name) + 2 > PATH_MAX) return 0;
        strcat(base, "/");
    }
    strcat(base, name);
    memcpy(found, base, strlen(base) + 1);
    return inside(found);
}

static int watched(int descriptor, struct stat *state) {
    if (log_descriptor < 0 || descriptor < 0) return 0;
    if (fstat(descriptor, state)) return 0;
    return S_ISREG(state->st_mode) || S_ISDIR(state->st_mode);
}

static long long time_of(const struct stat *state) {
    return state->st_mtim.tv_sec * 1000000000LL + state->st_mtim.tv_nsec;
}

static void note_state(const char *call, const struct stat *now) {
    note("%s\t%llu\t%lld\t%lld\t%u\n", call, (unsigned long long)now->st_ino, (long long)now->st_size,
         time_of(now), now->st_mode);
}

static void note_bytes(int descriptor, off_t at, const char *data, size_t size) {
    struct stat now;
    fstat(descriptor, &now);
    char *hex = malloc(2 * size + 2);
    for (size_t i = 0; i < size; i++) {
        hex[2 * i] = "0123456789abcdef"[(unsigned char)data[i] >> 4];
        hex[2 * i + 1] = "0123456789abcdef"[(unsigned char)data[i] & 15];
    }
    hex[2 * size] = '\n';
    note("write\t%llu\t%lld\t%lld\t%u\t%lld\t", (unsigned long long)now.st_ino, (long long)now.st_size,
         time_of(&now), now.st_mode, (long long)at);
    put(hex, 2 * size + 1);
    free(hex);
}

/* Bytes that the system copied by itself, read back. */
static void note_copied(int descriptor, off_t at, size_t size) {
    char own[64], *data = malloc(size);
    snprintf(own, sizeof own, "/proc/self/fd/%d", descriptor);
    int again = (int)syscall(SYS_openat, AT_FDCWD, own, O_RDONLY | O_CLOEXEC, 0);
    if (again < 0 || syscall(SYS_pread64, again, data, size, at) != (long)size) abort();
    close(again);
    note_bytes(descriptor, at, data, size);
    free(data);
}

#define LOCKED(result, call, success) \
    pthread_mutex_lock(&turn); \
    result = call; \
    int failure = errno; \
    if (result success) {
#define UNLOCKED(result) \
    } \
    pthread_mutex_unlock(&turn); \
    errno = failure; \
    return result

void recorder_mark(const char *text) {
    if (log_descriptor < 0) return;
    pthread_mutex_lock(&turn);
    note("mark\t%s\n", text);
    pthread_mutex_unlock(&turn);
}

/* Opening */

static int opened(int (*open_it)(int, const char *, int, ...), int folder, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    struct stat before, now;
    int writes = flags & (O_CREAT | O_TRUNC | O_TMPFILE), descriptor;
    if (!writes || !locate(folder, name, path)) return open_it(folder, name, flags, mode);
    if (!fstatat(folder, name, &before, 0) && !S_ISREG(before.st_mode)) return open_it(folder, name, flags, mode);
    LOCKED(descriptor, open_it(folder, name, flags, mode), >= 0)
        fstat(descriptor, &now);
        note("open\t%llu\t%lld\t%lld\t%u\t%d\t%s\n", (unsigned long long)now.st_ino, (long long)now.st_size,
             time_of(&now), now.st_mode, !!(flags & O_TRUNC), path);
    UNLOCKED(descriptor);
}

#define MODE \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
        va_list arguments; \
        va_start(arguments, flags); \
        mode = va_arg(arguments, mode_t); \
        va_end(arguments); \
    }

int openat(int folder, const char *name, int flags, ...) {
    REAL(openat);
    MODE
    return opened(real, folder, name, flags, mode);
}
int openat64(int folder, const char *name, int flags, ...) {
    REAL(openat64);
    MODE
    return opened(real, folder, name, flags, mode);
}
int open(const char *name, int flags, ...) {
    REAL(openat);
    MODE
    return opened(real, AT_FDCWD, name, flags, mode);
}
int open64(const char *name, int flags, ...) {
    REAL(openat64);
    MODE
    return opened(real, AT_FDCWD, name, flags, mode);
}
int __open_2(const char *name, int flags) { return open(name, flags, 0); }
int __open64_2(const char *name, int flags) { return open64(name, flags, 0); }
int __openat_2(int folder, const char *name, int flags) { return openat(folder, name, flags, 0); }
int __openat64_2(int folder, const char *name, int flags) { return openat64(folder, name, flags, 0); }
int creat(const char *name, mode_t mode) { return open(name, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *name, mode_t mode) { return open64(name, O_CREAT | O_WRONLY | O_TRUNC, mode); }

/* Writing */

ssize_t write(int descriptor, const void *data, size_t size) {
    REAL(write);
    struct stat state;
    ssize_t written;
    if (!watched(descriptor, &state)) return real(descriptor, data, size);
    LOCKED(written, real(descriptor, data, size), > 0)
        note_bytes(descriptor, lseek(descriptor, 0, SEEK_CUR) - written, data, (size_t)written);
    UNLOCKED(written);
}

#define WRITING_AT(name, offset_type) \
    ssize_t name(int descriptor, const void *data, size_t size, offset_type at) { \
        REAL(name); \
        struct stat state; \
        ssize_t written; \
        if (!watched(descriptor, &state)) return real(descriptor, data, size, at); \
        LOCKED(written, real(descriptor, data, size, at), > 0) \
            note_bytes(descriptor, (off_t)at, data, (size_t)written); \
        UNLOCKED(written); \
    }
WRITING_AT(pwrite, off_t)
WRITING_AT(pwrite64, off64_t)

ssize_t writev(int descriptor, const struct iovec *parts, int count) {
    REAL(writev);
    struct stat state;
    ssize_t written;
    if (!watched(descriptor, &state)) return real(descriptor, parts, count);
    LOCKED(written, real(descriptor, parts, count), > 0)
        note_copied(descriptor, lseek(descriptor, 0, SEEK_CUR) - written, (size_t)written);
    UNLOCKED(written);
}

#define WRITING_PARTS_AT(name, offset_type) \
    ssize_t name(int descriptor, const struct iovec *parts, int count, offset_type at) { \
        REAL(name); \
        struct stat state; \
        ssize_t written; \
        if (!watched(descriptor, &state)) return real(descriptor, parts, count, at); \
        LOCKED(written, real(descriptor, parts, count, at), > 0) \
            note_copied(descriptor, (off_t)at, (size_t)written); \
        UNLOCKED(written); \
    }
WRITING_PARTS_AT(pwritev, off_t)
WRITING_PARTS_AT(pwritev64, off64_t)

#define WRITING_PARTS_WITH_FLAGS(name, offset_type) \
    ssize_t name(int descriptor, const struct iovec *parts, int count, offset_type at, int flags) { \
        REAL(name); \
        struct stat state; \
        ssize_t written; \
        if (!watched(descriptor, &state)) return real(descriptor, parts, count, at, flags); \
        LOCKED(written, real(descriptor, parts, count, at, flags), > 0) \
            note_copied(descriptor, at < 0 ? lseek(descriptor, 0, SEEK_CUR) - written : (off_t)at, (size_t)written); \
        UNLOCKED(written); \
    }
WRITING_PARTS_WITH_FLAGS(pwritev2, off_t)
WRITING_PARTS_WITH_FLAGS(pwritev64v2, off64_t)

#define SENDING(name, offset_type) \
    ssize_t name(int target, int source, offset_type *at, size_t size) { \
        REAL(name); \
        struct stat state; \
        ssize_t written; \
        if (!watched(target, &state)) return real(target, source, at, size); \
        LOCKED(written, real(target, source, at, size), > 0) \
            note_copied(target, lseek(target, 0, SEEK_CUR) - written, (size_t)written); \
        UNLOCKED(written); \
    }
ssize_t sendfile(int, int, off_t *, size_t);
ssize_t sendfile64(int, int, off64_t *, size_t);
SENDING(sendfile, off_t)
SENDING(sendfile64, off64_t)

#define COPYING(name, offset_type) \
    ssize_t name(int source, offset_type *from, int target, offset_type *at, size_t size, unsigned flags) { \
        REAL(name); \
        struct stat state; \
        ssize_t written; \
        if (!watched(target, &state)) return real(source, from, target, at, size, flags); \
        LOCKED(written, real(source, from, target, at, size, flags), > 0) \
            note_copied(target, (at ? *at : lseek(target, 0, SEEK_CUR)) - written, (size_t)written); \
        UNLOCKED(written); \
    }
COPYING(copy_file_range, off64_t)
COPYING(splice, off64_t)

int ioctl(int descriptor, unsigned long request, ...) {
    REAL(ioctl);
    va_list arguments;
    va_start(arguments, request);
    void *given = va_arg(arguments, void *);
    va_end(arguments);
    struct stat state;
    int result;
    if (request != CLONE_FILE || !watched(descriptor, &state)) return real(descriptor, request, given);
    LOCKED(result, real(descriptor, request, given), == 0)
        fstat(descriptor, &state);
        if (state.st_size) note_copied(descriptor, 0, (size_t)state.st_size);
    UNLOCKED(result);
}

/* What is written through memory can't be seen: it is told, and the recording does not count. */
#define MAPPING(name, offset_type) \
    void *name(void *address, size_t size, int protection, int flags, int descriptor, offset_type at) { \
        REAL(name); \
        struct stat state; \
        if ((flags & MAP_SHARED) && (protection & PROT_WRITE) && !(flags & MAP_ANONYMOUS) && \
            watched(descriptor, &state)) \
            note_state("mmap", &state); \
        return real(address, size, protection, flags, descriptor, at); \
    }
MAPPING(mmap, off_t)
MAPPING(mmap64, off64_t)

/* Sizes, modes and times */

#define ON_DESCRIPTOR(name, call, parameters, given) \
    int name parameters { \
        REAL(name); \
        struct stat state; \
        int result; \
        if (!watched(descriptor, &state)) return real given; \
        LOCKED(result, real given, == 0) \
            fstat(descriptor, &state); \
            note_state(call, &state); \
        UNLOCKED(result); \
    }
ON_DESCRIPTOR(ftruncate, "size", (int descriptor, off_t size), (descriptor, size))
ON_DESCRIPTOR(ftruncate64, "size", (int descriptor, off64_t size), (descriptor, size))
ON_DESCRIPTOR(fallocate, "size", (int descriptor, int mode, off_t at, off_t size), (descriptor, mode, at, size))
ON_DESCRIPTOR(fallocate64, "size", (int descriptor, int mode, off64_t at, off64_t size), (descriptor, mode, at, size))
ON_DESCRIPTOR(posix_fallocate, "size", (int descriptor, off_t at, off_t size), (descriptor, at, size))
ON_DESCRIPTOR(posix_fallocate64, "size", (int descriptor, off64_t at, off64_t size), (descriptor, at, size))
ON_DESCRIPTOR(fchmod, "look", (int descriptor, mode_t mode), (descriptor, mode))
ON_DESCRIPTOR(futimens, "look", (int descriptor, const struct timespec times[2]), (descriptor, times))
ON_DESCRIPTOR(fsync, "sync", (int descriptor), (descriptor))
ON_DESCRIPTOR(fdatasync, "sync", (int descriptor), (descriptor))

#define ON_NAME(name, call, parameters, given, folder) \
    int name parameters { \
        REAL(name); \
        char found[PATH_MAX]; \
        struct stat state; \
        int result; \
        if (!locate(folder, path, found)) return real given; \
        LOCKED(result, real given, == 0) \
            fstatat(folder, path, &state, 0); \
            note_state(call, &state); \
        UNLOCKED(result); \
    }
ON_NAME(truncate, "size", (const char *path, off_t size), (path, size), AT_FDCWD)
ON_NAME(truncate64, "size", (const char *path, off64_t size), (path, size), AT_FDCWD)
ON_NAME(chmod, "look", (const char *path, mode_t mode), (path, mode), AT_FDCWD)
ON_NAME(fchmodat, "look", (int folder, const char *path, mode_t mode, int flags), (folder, path, mode, flags), folder)

int utimensat(int folder, const char *path, const struct timespec times[2], int flags) {
    REAL(utimensat);
    char found[PATH_MAX];
    struct stat state;
    int result;
    if (!locate(folder, path, found)) return real(folder, path, times, flags);
    LOCKED(result, real(folder, path, times, flags), == 0)
        fstatat(folder, path, &state, flags & AT_SYMLINK_NOFOLLOW);
        note_state("look", &state);
    UNLOCKED(result);
}

void sync(void) {
    REAL(sync);
    pthread_mutex_lock(&turn);
    real();
    if (log_descriptor >= 0) note("all\n");
    pthread_mutex_unlock(&turn);
}
int syncfs(int descriptor) {
    REAL(syncfs);
    int result;
    LOCKED(result, real(descriptor), == 0)
        if (log_descriptor >= 0) note("all\n");
    UNLOCKED(result);
}

/* Names */

static int two_names(int (*real)(int, const char *, int, const char *, unsigned), const char *call, int folder,
                     const char *name, int other, const char *target, unsigned flags) {
    char from[PATH_MAX], to[PATH_MAX];
    int result, of_interest = locate(folder, name, from);
    if (!(locate(other, target, to) || of_interest)) return real(folder, name, other, target, flags);
    LOCKED(result, real(folder, name, other, target, flags), == 0)
        struct stat now;
        fstatat(other, target, &now, AT_SYMLINK_NOFOLLOW);
        note("%s\t%llu\t%lld\t%lld\t%u\t%s\t%s\n", call, (unsigned long long)now.st_ino, (long long)now.st_size,
             time_of(&now), now.st_mode, from, to);
    UNLOCKED(result);
}

static int rename_flags(int folder, const char *name, int other, const char *target, unsigned flags) {
    return (int)syscall(SYS_renameat2, folder, name, other, target, flags);
}
static int link_flags(int folder, const char *name, int other, const char *target, unsigned flags) {
    return (int)syscall(SYS_linkat, folder, name, other, target, flags);
}

int rename(const char *name, const char *target) {
    return two_names(rename_flags, "rename", AT_FDCWD, name, AT_FDCWD, target, 0);
}
int renameat(int folder, const char *name, int other, const char *target) {
    return two_names(rename_flags, "rename", folder, name, other, target, 0);
}
int renameat2(int folder, const char *name, int other, const char *target, unsigned flags) {
    return two_names(rename_flags, flags & ~1U ? "exchange" : "rename", folder, name, other, target, flags);
}
int link(const char *name, const char *target) {
    return two_names(link_flags, "link", AT_FDCWD, name, AT_FDCWD, target, 0);
}
int linkat(int folder, const char *name, int other, const char *target, int flags) {
    return two_names(link_flags, "link", folder, name, other, target, (unsigned)flags);
}

#define ONE_NAME(name, parameters, given, folder, line) \
    int name parameters { \
        REAL(name); \
        char found[PATH_MAX]; \
        struct stat now; \
        int result; \
        if (!locate(folder, path, found)) return real given; \
        LOCKED(result, real given, == 0) \
            memset(&now, 0, sizeof now); \
            fstatat(folder, path, &now, AT_SYMLINK_NOFOLLOW); \
            line; \
        UNLOCKED(result); \
    }
#define NOTE_NAME(call) note("%s\t%llu\t%s\n", call, (unsigned long long)now.st_ino, found)
ONE_NAME(mkdir, (const char *path, mode_t mode), (path, mode), AT_FDCWD, NOTE_NAME("mkdir"))
ONE_NAME(mkdirat, (int folder, const char *path, mode_t mode), (folder, path, mode), folder, NOTE_NAME("mkdir"))
ONE_NAME(rmdir, (const char *path), (path), AT_FDCWD, NOTE_NAME("remove"))
ONE_NAME(unlink, (const char *path), (path), AT_FDCWD, NOTE_NAME("remove"))
ONE_NAME(unlinkat, (int folder, const char *path, int flags), (folder, path, flags), folder, NOTE_NAME("remove"))
ONE_NAME(symlink, (const char *target, const char *path), (target, path), AT_FDCWD,
         note("symlink\t%llu\t%s\t%s\n", (unsigned long long)now.st_ino, found, target))
ONE_NAME(symlinkat, (const char *target, int folder, const char *path), (target, folder, path), folder,
         note("symlink\t%llu\t%s\t%s\n", (unsigned long long)now.st_ino, found, target))
/* Pipes are left out of what is compared and replayed: none outlives its processes. So are sockets. */
ONE_NAME(mkfifo, (const char *path, mode_t mode), (path, mode), AT_FDCWD, NOTE_NAME("special"))
ONE_NAME(mkfifoat, (int folder, const char *path, mode_t mode), (folder, path, mode), folder, NOTE_NAME("special"))

int bind(int descriptor, const struct sockaddr *address, socklen_t size) {
    REAL(bind);
    char found[PATH_MAX];
    struct stat now;
    int result;
    const char *path = ((const struct sockaddr_un *)address)->sun_path;
    if (address->sa_family != AF_UNIX || !path[0] || !locate(AT_FDCWD, path, found))
        return real(descriptor, address, size);
    LOCKED(result, real(descriptor, address, size), == 0)
        lstat(path, &now);
        NOTE_NAME("special");
    UNLOCKED(result);
}
