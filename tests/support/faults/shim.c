/* File-system calls that fail on request.
 *
 * Preloaded (LD_PRELOAD) into one process, whose tests write what is to fail into a file that this maps: from
 * then on the calls below one folder are recorded, and the one that is armed fails with the errno that is asked
 * for. Calls elsewhere, and all calls while nothing is armed, go straight to libc.
 *
 * FAULTS_RULES (``flock=37,fsync-folder=22``) and FAULTS_BELOW make the file system below a folder one that lacks
 * these calls for as long as the process lives.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#define FICLONE_ 0x40049409ul
#define RECORDING 1u
#define ARMED 2u
#define SHORT (-1) /* instead of an errno: do half of what is asked for */
#define ENTRIES 4096

struct entry {
    char call[24];
    char place[228];
    uint32_t count;
};

struct control { /* control.py has the same offsets */
    _Atomic uint32_t mode;
    int32_t error;
    uint32_t skip;  /* matching calls that succeed first */
    uint32_t times; /* and how many then fail; 0: all */
    _Atomic uint32_t seen;
    _Atomic uint32_t hits;
    _Atomic uint32_t recorded;
    uint32_t unused;
    char call[32];
    char place[448]; /* a pattern; "*": anywhere below the folder */
    char folder[512];
    struct entry entries[ENTRIES];
};

static struct control *control;

/* What the file system below a folder lacks. */
static struct {
    char call[24];
    int error;
} rules[16];
static int rule_count;
static char rules_below[512];
static pthread_mutex_t recording = PTHREAD_MUTEX_INITIALIZER;

static void *next_symbol(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) {
        fprintf(stderr, "faults: no %s in this libc\n", name);
        abort();
    }
    return found;
}

#define REAL_OF(type, name, variable, ...)                      \
    static type (*variable)(__VA_ARGS__);                       \
    if (!variable) variable = (type(*)(__VA_ARGS__))next_symbol(#name)
#define REAL(type, name, ...) REAL_OF(type, name, real, __VA_ARGS__)

__attribute__((constructor)) static void map_control(void) {
    const char *file = getenv("FAULTS_CONTROL");
    if (!file) return;
    int descriptor = open(file, O_RDWR | O_CLOEXEC);
    if (descriptor < 0) return;
    void *mapped = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    if (mapped != MAP_FAILED) control = mapped;
}

__attribute__((constructor)) static void read_rules(void) {
    const char *text = getenv("FAULTS_RULES"), *folder = getenv("FAULTS_BELOW");
    if (!text || !folder) return;
    snprintf(rules_below, sizeof rules_below, "%s", folder);
    while (rule_count < 16 && sscanf(text, "%23[^=]=%d", rules[rule_count].call, &rules[rule_count].error) == 2) {
        rule_count++;
        text = strchr(text, ',');
        if (!text++) break;
    }
}

static int lacks(const char *call, const char *path) {
    size_t length = strlen(rules_below);
    if (strncmp(path, rules_below, length) || (path[length] && path[length] != '/')) return 0;
    for (int i = 0; i < rule_count; i++)
        if (!strcmp(rules[i].call, call)) return rules[i].error;
    return 0;
}

/* Names with their numbers and digests left out: v12/shard_003.bin is v#/shard_#.bin. */
static int is_hex(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); }
static int is_word(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static void classify(const char *name, char *out, size_t room) {
    char *end = out + room - 1, before = '/';
    while (*name && out < end) {
        size_t hex = 0, digits = 0;
        if (!is_word(before)) {
            while (is_hex(name[hex])) hex++;
            int whole = before == '/' && (name[hex] == '/' || !name[hex]);
            if (is_word(name[hex]) || (hex < 8 && !(whole && hex == 2))) {
                for (hex = 0; is_word(name[hex]);) hex++; /* a hash in another base */
                if (hex < 20) hex = 0;
            }
        }
        while (name[digits] >= '0' && name[digits] <= '9') digits++;
        if (hex || digits) {
            *out++ = hex ? '@' : '#';
            name += hex ? hex : digits;
            before = '0';
        } else {
            before = *out++ = *name++;
        }
    }
    *out = 0;
}

static void record(const char *call, const char *place) {
    pthread_mutex_lock(&recording);
    uint32_t count = control->recorded, i;
    for (i = 0; i < count; i++)
        if (!strcmp(control->entries[i].call, call) && !strcmp(control->entries[i].place, place)) break;
    if (i == count && count < ENTRIES) {
        snprintf(control->entries[i].call, sizeof control->entries[i].call, "%s", call);
        snprintf(control->entries[i].place, sizeof control->entries[i].place, "%s", place);
        control->entries[i].count = 0;
        control->recorded = count + 1;
    }
    if (i < ENTRIES) control->entries[i].count++;
    pthread_mutex_unlock(&recording);
}

static const char *below(const char *path) {
    size_t length = strlen(control->folder);
    if (!length || strncmp(path, control->folder, length) || (path[length] && path[length] != '/')) return NULL;
    return path[length] ? path + length + 1 : ".";
}

static int failure_of(const char *call, const char *place) {
    uint32_t mode = control->mode;
    if (mode & RECORDING) record(call, place);
    if (!(mode & ARMED) || strcmp(control->call, call)) return 0;
    if (fnmatch(control->place, place, 0)) return 0;
    uint32_t seen = control->seen++;
    if (seen < control->skip || (control->times && seen >= control->skip + control->times)) return 0;
    control->hits++;
    return control->error;
}

static int resolve(int folder, const char *path, char *out, size_t room) {
    char link[64], start[PATH_MAX] = "";
    const char *rest = path;
    ssize_t length = -1;
    REAL(ssize_t, readlink, const char *, char *, size_t);
    if (path && !strncmp(path, "/proc/self/fd/", 14)) { /* a socket's short name */
        folder = (int)strtol(path + 14, (char **)&rest, 10);
        if (*rest == '/') rest++;
    }
    if (rest && *rest == '/') {
        snprintf(out, room, "%s", rest);
        return 1;
    }
    if (folder == AT_FDCWD) {
        if (getcwd(start, sizeof start)) length = (ssize_t)strlen(start);
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        length = real(link, start, sizeof start - 1);
    }
    if (length <= 0) return 0;
    start[length] = 0;
    char *gone = strstr(start, " (deleted)");
    if (gone && !gone[10]) *gone = 0;
    int written = rest && *rest ? snprintf(out, room, "%s/%s", start, rest) : snprintf(out, room, "%s", start);
    return written > 0 && (size_t)written < room;
}

static int fails_at(const char *call, int folder, const char *path) {
    char whole[2 * PATH_MAX], place[228];
    int is_on = control && control->mode;
    if (!is_on && !rule_count) return 0;
    int kept = errno, failure = 0;
    if (resolve(folder, path, whole, sizeof whole)) {
        failure = lacks(call, whole);
        const char *name = is_on && !failure ? below(whole) : NULL;
        if (name) {
            classify(name, place, sizeof place);
            failure = failure_of(call, place);
        }
    }
    errno = kept;
    return failure;
}

static int is_folder(int folder, const char *path) {
    struct stat64 found;
    REAL(int, fstatat64, int, const char *, struct stat64 *, int);
    return !real(folder, path, &found, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) && S_ISDIR(found.st_mode);
}

/* Two names: what is made or goes away counts, and "from>to" where both are below the folder. */
static int fails_between(const char *call, int from_folder, const char *from, int to_folder, const char *to) {
    char first[2 * PATH_MAX], second[2 * PATH_MAX], place[228], other[110];
    int is_on = control && control->mode;
    if (!is_on && !rule_count) return 0;
    int kept = errno, failure = 0;
    if (resolve(from_folder, from, first, sizeof first) && resolve(to_folder, to, second, sizeof second)) {
        failure = lacks(call, second);
        if (!failure && !strcmp(call, "rename") && is_folder(from_folder, from))
            failure = lacks("rename-folder", second);
        is_on = is_on && !failure;
        const char *source = is_on ? below(first) : NULL, *target = is_on ? below(second) : NULL;
        if (target) {
            classify(target, other, sizeof other);
            if (source) {
                char begin[110];
                classify(source, begin, sizeof begin);
                snprintf(place, sizeof place, "%s>%s", begin, other);
            } else {
                snprintf(place, sizeof place, "%s", other);
            }
            failure = failure_of(call, place);
        }
    }
    errno = kept;
    return failure;
}

#define FAIL(call, folder, path, value)                     \
    do {                                                    \
        int failure_ = fails_at(call, folder, path);        \
        if (failure_ > 0) {                                 \
            errno = failure_;                               \
            return value;                                   \
        }                                                   \
    } while (0)

#define FAIL_BETWEEN(call, a, b, c, d)                      \
    do {                                                    \
        int failure_ = fails_between(call, a, b, c, d);     \
        if (failure_ > 0) {                                 \
            errno = failure_;                               \
            return -1;                                      \
        }                                                   \
    } while (0)

static const char *opening(int flags) {
    if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE) return "create";
    return (flags & O_ACCMODE) == O_RDONLY ? "open" : "open-write";
}

#define MODE(flags, last)                                                  \
    mode_t mode = 0;                                                       \
    if ((flags) & O_CREAT || ((flags) & O_TMPFILE) == O_TMPFILE) {         \
        va_list list;                                                      \
        va_start(list, last);                                              \
        mode = va_arg(list, mode_t);                                       \
        va_end(list);                                                      \
    }

#define OPEN(name)                                                         \
    int name(const char *path, int flags, ...) {                           \
        REAL(int, name, const char *, int, ...);                           \
        MODE(flags, flags)                                                 \
        FAIL(opening(flags), AT_FDCWD, path, -1);                          \
        return real(path, flags, mode);                                    \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                       \
    int name(int folder, const char *path, int flags, ...) {               \
        REAL(int, name, int, const char *, int, ...);                      \
        MODE(flags, flags)                                                 \
        FAIL(opening(flags), folder, path, -1);                            \
        return real(folder, path, flags, mode);                            \
    }
OPENAT(openat)
OPENAT(openat64)

#define OPEN_CHECKED(name)                                                 \
    int name(const char *path, int flags) {                                \
        REAL(int, name, const char *, int);                                \
        FAIL(opening(flags), AT_FDCWD, path, -1);                          \
        return real(path, flags);                                          \
    }
OPEN_CHECKED(__open_2)
OPEN_CHECKED(__open64_2)

#define CREAT(name)                                                        \
    int name(const char *path, mode_t mode) {                              \
        REAL(int, name, const char *, mode_t);                             \
        FAIL("create", AT_FDCWD, path, -1);                                \
        return real(path, mode);                                           \
    }
CREAT(creat)
CREAT(creat64)

#define FOPEN(name)                                                        \
    FILE *name(const char *path, const char *how) {                        \
        REAL(FILE *, name, const char *, const char *);                    \
        FAIL(*how == 'r' ? "open" : "create", AT_FDCWD, path, NULL);       \
        return real(path, how);                                            \
    }
FOPEN(fopen)
FOPEN(fopen64)

/* Half of the bytes, where that is asked for and makes a difference. */
#define COUNTED(call, descriptor, count)                                   \
    do {                                                                   \
        int failure_ = fails_at(call, descriptor, NULL);                   \
        if (failure_ > 0) {                                                \
            errno = failure_;                                              \
            return -1;                                                     \
        }                                                                  \
        if (failure_ == SHORT && (count) > 1) (count) /= 2;                \
    } while (0)

ssize_t read(int descriptor, void *data, size_t count) {
    REAL(ssize_t, read, int, void *, size_t);
    COUNTED("read", descriptor, count);
    return real(descriptor, data, count);
}
ssize_t __read_chk(int descriptor, void *data, size_t count, size_t room) {
    (void)room;
    return read(descriptor, data, count);
}
ssize_t write(int descriptor, const void *data, size_t count) {
    REAL(ssize_t, write, int, const void *, size_t);
    COUNTED("write", descriptor, count);
    return real(descriptor, data, count);
}

#define PREAD(name)                                                        \
    ssize_t name(int descriptor, void *data, size_t count, off_t offset) { \
        REAL(ssize_t, name, int, void *, size_t, off_t);                   \
        COUNTED("read", descriptor, count);                                \
        return real(descriptor, data, count, offset);                      \
    }
PREAD(pread)
PREAD(pread64)
ssize_t __pread_chk(int descriptor, void *data, size_t count, off_t offset, size_t room) {
    (void)room;
    return pread(descriptor, data, count, offset);
}
ssize_t __pread64_chk(int descriptor, void *data, size_t count, off_t offset, size_t room) {
    (void)room;
    return pread64(descriptor, data, count, offset);
}

#define PWRITE(name)                                                             \
    ssize_t name(int descriptor, const void *data, size_t count, off_t offset) { \
        REAL(ssize_t, name, int, const void *, size_t, off_t);                   \
        COUNTED("write", descriptor, count);                                     \
        return real(descriptor, data, count, offset);                            \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

/* Half of the first part. */
#define VECTOR(call, single, descriptor, parts, count, ...)                              \
    do {                                                                                 \
        int failure_ = fails_at(call, descriptor, NULL);                                 \
        if (failure_ > 0) {                                                              \
            errno = failure_;                                                            \
            return -1;                                                                   \
        }                                                                                \
        if (failure_ == SHORT && (count) > 0 && (parts)[0].iov_len > 1)                  \
            return single(descriptor, (parts)[0].iov_base, (parts)[0].iov_len / 2, ##__VA_ARGS__); \
    } while (0)

#define SIMPLE_VECTOR(name, call, single)                                  \
    ssize_t name(int descriptor, const struct iovec *parts, int count) {   \
        REAL(ssize_t, name, int, const struct iovec *, int);               \
        VECTOR(call, single, descriptor, parts, count);                    \
        return real(descriptor, parts, count);                             \
    }
SIMPLE_VECTOR(readv, "read", read)
SIMPLE_VECTOR(writev, "write", write)

#define OFFSET_VECTOR(name, call, single)                                              \
    ssize_t name(int descriptor, const struct iovec *parts, int count, off_t offset) { \
        REAL(ssize_t, name, int, const struct iovec *, int, off_t);                    \
        VECTOR(call, single, descriptor, parts, count, offset);                        \
        return real(descriptor, parts, count, offset);                                 \
    }
OFFSET_VECTOR(preadv, "read", pread)
OFFSET_VECTOR(preadv64, "read", pread64)
OFFSET_VECTOR(pwritev, "write", pwrite)
OFFSET_VECTOR(pwritev64, "write", pwrite64)

#define FLAGGED_VECTOR(name, call, single)                                                        \
    ssize_t name(int descriptor, const struct iovec *parts, int count, off_t offset, int flags) { \
        REAL(ssize_t, name, int, const struct iovec *, int, off_t, int);                          \
        VECTOR(call, single, descriptor, parts, count, offset);                                   \
        return real(descriptor, parts, count, offset, flags);                                     \
    }
FLAGGED_VECTOR(preadv2, "read", pread)
FLAGGED_VECTOR(preadv64v2, "read", pread64)
FLAGGED_VECTOR(pwritev2, "write", pwrite)
FLAGGED_VECTOR(pwritev64v2, "write", pwrite64)

#define SENDFILE(name)                                                     \
    ssize_t name(int target, int source, off_t *offset, size_t count) {    \
        REAL(ssize_t, name, int, int, off_t *, size_t);                    \
        COUNTED("sendfile", source, count);                                \
        return real(target, source, offset, count);                        \
    }
SENDFILE(sendfile)
SENDFILE(sendfile64)

ssize_t copy_file_range(int source, off64_t *from, int target, off64_t *to, size_t count, unsigned flags) {
    REAL(ssize_t, copy_file_range, int, off64_t *, int, off64_t *, size_t, unsigned);
    COUNTED("copy_file_range", target, count);
    return real(source, from, target, to, count, flags);
}

#define ON_DESCRIPTOR(name, call)                                          \
    int name(int descriptor) {                                             \
        REAL(int, name, int);                                              \
        FAIL(call, descriptor, NULL, -1);                                  \
        if (rule_count && is_folder(descriptor, ""))                       \
            FAIL(call "-folder", descriptor, NULL, -1);                    \
        return real(descriptor);                                           \
    }
ON_DESCRIPTOR(fsync, "fsync")
ON_DESCRIPTOR(fdatasync, "fsync")
ON_DESCRIPTOR(syncfs, "fsync")

/* Late errors of writing come when a regular file is closed (NFS, quotas); it is closed whatever it says. */
static int was_written(int descriptor) {
    struct stat64 found;
    REAL(int, fstat64, int, struct stat64 *);
    REAL_OF(int, fcntl64, other, int, int, ...);
    int flags = other(descriptor, F_GETFL);
    return flags >= 0 && (flags & O_ACCMODE) != O_RDONLY && !real(descriptor, &found) && S_ISREG(found.st_mode);
}

int close(int descriptor) {
    REAL(int, close, int);
    int failure = 0, kept = errno;
    if (control && control->mode && was_written(descriptor)) failure = fails_at("close", descriptor, NULL);
    errno = kept;
    int result = real(descriptor);
    if (failure <= 0) return result;
    errno = failure;
    return -1;
}

int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *);
    FAIL_BETWEEN("rename", AT_FDCWD, from, AT_FDCWD, to);
    return real(from, to);
}
int renameat(int from_folder, const char *from, int to_folder, const char *to) {
    REAL(int, renameat, int, const char *, int, const char *);
    FAIL_BETWEEN("rename", from_folder, from, to_folder, to);
    return real(from_folder, from, to_folder, to);
}
int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    REAL(int, renameat2, int, const char *, int, const char *, unsigned);
    FAIL_BETWEEN("rename", from_folder, from, to_folder, to);
    return real(from_folder, from, to_folder, to, flags);
}
int link(const char *from, const char *to) {
    REAL(int, link, const char *, const char *);
    FAIL_BETWEEN("link", AT_FDCWD, from, AT_FDCWD, to);
    return real(from, to);
}
int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    REAL(int, linkat, int, const char *, int, const char *, int);
    FAIL_BETWEEN("link", from_folder, from, to_folder, to);
    return real(from_folder, from, to_folder, to, flags);
}
int symlink(const char *target, const char *path) {
    REAL(int, symlink, const char *, const char *);
    FAIL("symlink", AT_FDCWD, path, -1);
    return real(target, path);
}
int symlinkat(const char *target, int folder, const char *path) {
    REAL(int, symlinkat, const char *, int, const char *);
    FAIL("symlink", folder, path, -1);
    return real(target, folder, path);
}

#define ON_PATH(name, call)                                                \
    int name(const char *path) {                                           \
        REAL(int, name, const char *);                                     \
        FAIL(call, AT_FDCWD, path, -1);                                    \
        return real(path);                                                 \
    }
ON_PATH(unlink, "unlink")
ON_PATH(remove, "unlink")
ON_PATH(rmdir, "rmdir")

int unlinkat(int folder, const char *path, int flags) {
    REAL(int, unlinkat, int, const char *, int);
    FAIL(flags & AT_REMOVEDIR ? "rmdir" : "unlink", folder, path, -1);
    return real(folder, path, flags);
}

#define WITH_MODE(name, call)                                              \
    int name(const char *path, mode_t mode) {                              \
        REAL(int, name, const char *, mode_t);                             \
        FAIL(call, AT_FDCWD, path, -1);                                    \
        return real(path, mode);                                           \
    }
WITH_MODE(mkdir, "mkdir")
WITH_MODE(mkfifo, "mkfifo")
WITH_MODE(chmod, "chmod")

int mkdirat(int folder, const char *path, mode_t mode) {
    REAL(int, mkdirat, int, const char *, mode_t);
    FAIL("mkdir", folder, path, -1);
    return real(folder, path, mode);
}
int fchmod(int descriptor, mode_t mode) {
    REAL(int, fchmod, int, mode_t);
    FAIL("chmod", descriptor, NULL, -1);
    return real(descriptor, mode);
}
int fchmodat(int folder, const char *path, mode_t mode, int flags) {
    REAL(int, fchmodat, int, const char *, mode_t, int);
    FAIL("chmod", folder, path, -1);
    return real(folder, path, mode, flags);
}

#define TRUNCATE(name)                                                     \
    int name(int descriptor, off_t size) {                                 \
        REAL(int, name, int, off_t);                                       \
        FAIL("truncate", descriptor, NULL, -1);                            \
        return real(descriptor, size);                                     \
    }
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

#define TRUNCATE_PATH(name)                                                \
    int name(const char *path, off_t size) {                               \
        REAL(int, name, const char *, off_t);                              \
        FAIL("truncate", AT_FDCWD, path, -1);                              \
        return real(path, size);                                           \
    }
TRUNCATE_PATH(truncate)
TRUNCATE_PATH(truncate64)

#define POSIX_FALLOCATE(name) /* returns its error */                      \
    int name(int descriptor, off_t offset, off_t size) {                   \
        REAL(int, name, int, off_t, off_t);                                \
        int failure = fails_at("fallocate", descriptor, NULL);             \
        return failure > 0 ? failure : real(descriptor, offset, size);     \
    }
POSIX_FALLOCATE(posix_fallocate)
POSIX_FALLOCATE(posix_fallocate64)

#define FALLOCATE(name)                                                    \
    int name(int descriptor, int mode, off_t offset, off_t size) {         \
        REAL(int, name, int, int, off_t, off_t);                           \
        FAIL("fallocate", descriptor, NULL, -1);                           \
        return real(descriptor, mode, offset, size);                       \
    }
FALLOCATE(fallocate)
FALLOCATE(fallocate64)

int flock(int descriptor, int how) {
    REAL(int, flock, int, int);
    if (!(how & LOCK_UN)) FAIL("lock", descriptor, NULL, -1);
    if (rule_count) FAIL("flock", descriptor, NULL, -1);
    return real(descriptor, how);
}

#define FCNTL(name)                                                                            \
    int name(int descriptor, int request, ...) {                                               \
        REAL(int, name, int, int, ...);                                                        \
        va_list list;                                                                          \
        va_start(list, request);                                                               \
        void *argument = va_arg(list, void *);                                                 \
        va_end(list);                                                                          \
        if ((request == F_SETLK || request == F_SETLKW || request == F_OFD_SETLK ||            \
             request == F_OFD_SETLKW) && ((struct flock *)argument)->l_type != F_UNLCK)        \
            FAIL("lock", descriptor, NULL, -1);                                                \
        return real(descriptor, request, argument);                                            \
    }
FCNTL(fcntl)
FCNTL(fcntl64)

int ioctl(int descriptor, unsigned long request, ...) {
    REAL(int, ioctl, int, unsigned long, ...);
    va_list list;
    va_start(list, request);
    void *argument = va_arg(list, void *);
    va_end(list);
    if (request == FICLONE_) FAIL("clone", descriptor, NULL, -1);
    return real(descriptor, request, argument);
}

#define STAT(name, type)                                                   \
    int name(const char *path, type *found) {                              \
        REAL(int, name, const char *, type *);                             \
        FAIL("stat", AT_FDCWD, path, -1);                                  \
        return real(path, found);                                          \
    }
STAT(stat, struct stat)
STAT(stat64, struct stat64)
STAT(lstat, struct stat)
STAT(lstat64, struct stat64)

#define FSTATAT(name, type)                                                \
    int name(int folder, const char *path, type *found, int flags) {       \
        REAL(int, name, int, const char *, type *, int);                   \
        FAIL("stat", folder, path, -1);                                    \
        return real(folder, path, found, flags);                           \
    }
FSTATAT(fstatat, struct stat)
FSTATAT(fstatat64, struct stat64)

#define FSTAT(name, type, call)                                            \
    int name(int descriptor, type *found) {                                \
        REAL(int, name, int, type *);                                      \
        FAIL(call, descriptor, NULL, -1);                                  \
        return real(descriptor, found);                                    \
    }
FSTAT(fstat, struct stat, "fstat")
FSTAT(fstat64, struct stat64, "fstat")
FSTAT(fstatvfs, struct statvfs, "statfs")
FSTAT(fstatvfs64, struct statvfs64, "statfs")
FSTAT(fstatfs, struct statfs, "statfs")
FSTAT(fstatfs64, struct statfs64, "statfs")

int statx(int folder, const char *restrict path, int flags, unsigned mask, struct statx *restrict found) {
    REAL(int, statx, int, const char *restrict, int, unsigned, struct statx *restrict);
    FAIL("stat", folder, path, -1);
    return real(folder, path, flags, mask, found);
}

#define STATFS(name, type)                                                 \
    int name(const char *path, type *found) {                              \
        REAL(int, name, const char *, type *);                             \
        FAIL("statfs", AT_FDCWD, path, -1);                                \
        return real(path, found);                                          \
    }
STATFS(statvfs, struct statvfs)
STATFS(statvfs64, struct statvfs64)
STATFS(statfs, struct statfs)
STATFS(statfs64, struct statfs64)

int access(const char *path, int mode) {
    REAL(int, access, const char *, int);
    FAIL("access", AT_FDCWD, path, -1);
    return real(path, mode);
}
int faccessat(int folder, const char *path, int mode, int flags) {
    REAL(int, faccessat, int, const char *, int, int);
    FAIL("access", folder, path, -1);
    return real(folder, path, mode, flags);
}

#define SEEK(name)                                                         \
    off_t name(int descriptor, off_t offset, int from) {                   \
        REAL(off_t, name, int, off_t, int);                                \
        if (from == SEEK_DATA || from == SEEK_HOLE) FAIL("seek", descriptor, NULL, -1); \
        return real(descriptor, offset, from);                             \
    }
SEEK(lseek)
SEEK(lseek64)

DIR *opendir(const char *path) {
    REAL(DIR *, opendir, const char *);
    FAIL("opendir", AT_FDCWD, path, NULL);
    return real(path);
}
DIR *fdopendir(int descriptor) {
    REAL(DIR *, fdopendir, int);
    FAIL("opendir", descriptor, NULL, NULL);
    return real(descriptor);
}

#define READDIR(name, type)                                                \
    type *name(DIR *folder) {                                              \
        REAL(type *, name, DIR *);                                         \
        FAIL("readdir", dirfd(folder), NULL, NULL);                        \
        return real(folder);                                               \
    }
READDIR(readdir, struct dirent)
READDIR(readdir64, struct dirent64)

int utimensat(int folder, const char *path, const struct timespec times[2], int flags) {
    REAL(int, utimensat, int, const char *, const struct timespec *, int);
    FAIL("utime", folder, path, -1);
    return real(folder, path, times, flags);
}
int futimens(int descriptor, const struct timespec times[2]) {
    REAL(int, futimens, int, const struct timespec *);
    FAIL("utime", descriptor, NULL, -1);
    return real(descriptor, times);
}

ssize_t readlink(const char *restrict path, char *restrict out, size_t room) {
    REAL(ssize_t, readlink, const char *restrict, char *restrict, size_t);
    FAIL("readlink", AT_FDCWD, path, -1);
    return real(path, out, room);
}
ssize_t readlinkat(int folder, const char *restrict path, char *restrict out, size_t room) {
    REAL(ssize_t, readlinkat, int, const char *restrict, char *restrict, size_t);
    FAIL("readlink", folder, path, -1);
    return real(folder, path, out, room);
}

int bind(int socket, const struct sockaddr *address, socklen_t length) {
    REAL(int, bind, int, const struct sockaddr *, socklen_t);
    if (address->sa_family == AF_UNIX) {
        const struct sockaddr_un *name = (const struct sockaddr_un *)address;
        if (name->sun_path[0]) FAIL("bind", AT_FDCWD, name->sun_path, -1);
    }
    return real(socket, address, length);
}
