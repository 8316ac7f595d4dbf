/* Preloaded into a process, makes reads, writes and flushes of chosen files fail, as a worn disk does.
 *
 * FAILING_DISK names a file of rules, one a line, read at every call so that they may change meanwhile:
 *
 *	r INODE FIRST LAST ERRNO   a read that touches a byte from FIRST to LAST of the file fails, and a
 *	                           mapping of such a byte ends the process at the first access
 *	w INODE FIRST LAST ERRNO   a write that does
 *	f INODE 0 0 ERRNO          every flush; a negative number delays it by that many milliseconds
 *	n * FIRST LAST ERRNO       the operations with these numbers: those of the kinds in FAILING_DISK_KINDS are
 *	                           counted from 1 on: r, w, f, and further
 *	                           o  opening a file for writing
 *	                           m  renaming, removing, truncating and allocating a file
 *	                           l  taking a lock of fcntl(2)
 *
 * INODE may be * for every file. Only files directly below FAILING_DISK_DIR count.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static atomic_llong counted;

/* How many operations of the kinds in FAILING_DISK_KINDS there were. */
long long failing_disk_counted(void)
{
	return counted;
}

/* The errno of the first rule for this call, or 0. Kind p, a mapping, follows the rules of reads and has no
 * number: SQLite maps the -shm file only, which it writes again at each start. `inode` is 0 for an operation on a name. */
static int ruled(char kind, const char *path, unsigned long long inode, int64_t begin, int64_t length)
{
	const char *rules = getenv("FAILING_DISK"), *below = getenv("FAILING_DISK_DIR");
	const char *kinds = getenv("FAILING_DISK_KINDS");
	char text[4096], wanted[256], own[32], op, *rest = NULL;
	long long first, last, number = 0;
	int code;
	if (rules == NULL || below == NULL)
		return 0;
	size_t directory = strlen(below);
	if (strncmp(path, below, directory) != 0 || path[directory] != '/')
		return 0;
	if (kinds != NULL && strchr(kinds, kind) != NULL)
		number = atomic_fetch_add(&counted, 1) + 1;
	int rules_fd = NEXT(open)(rules, O_RDONLY | O_CLOEXEC);
	if (rules_fd < 0)
		return 0;
	ssize_t got = NEXT(read)(rules_fd, text, sizeof text - 1);
	close(rules_fd);
	text[got > 0 ? got : 0] = '\0';
	snprintf(own, sizeof own, "%llu", inode);
	for (char *line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
		if (sscanf(line, "%c %255s %lld %lld %d", &op, wanted, &first, &last, &code) != 5)
			continue;
		if (op == 'n' ? number >= first && number <= last && number
			      : (op == kind || (op == 'r' && kind == 'p')) &&
					(strcmp(wanted, "*") == 0 || strcmp(wanted, own) == 0) &&
					(kind == 'f' || (begin <= last && begin + length > first)))
			return code;
	}
	return 0;
}

static int fault(char kind, int fd, int64_t begin, int64_t length)
{
	char link[32], path[PATH_MAX];
	int saved = errno, found = 0;
	struct stat file;
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	ssize_t size = readlink(link, path, sizeof path - 1);
	if (size > 0 && fstat(fd, &file) == 0) {
		path[size] = '\0';
		found = ruled(kind, path, file.st_ino, begin, length);
	}
	errno = saved;
	return found;
}

#define AT(function, bytes_type, offset_type, kind)                                     \
	ssize_t function(int fd, bytes_type bytes, size_t count, offset_type at)        \
	{                                                                               \
		int code = fault(kind, fd, at, count);                                  \
		if (code) {                                                             \
			errno = code;                                                   \
			return -1;                                                      \
		}                                                                       \
		return NEXT(function)(fd, bytes, count, at);                            \
	}
AT(pread, void *, off_t, 'r')
AT(pread64, void *, off64_t, 'r')
AT(pwrite, const void *, off_t, 'w')
AT(pwrite64, const void *, off64_t, 'w')

#define HERE(function, bytes_type, kind)                                        \
	ssize_t function(int fd, bytes_type bytes, size_t count)                \
	{                                                                       \
		int code = fault(kind, fd, lseek(fd, 0, SEEK_CUR), count);      \
		if (code) {                                                     \
			errno = code;                                           \
			return -1;                                              \
		}                                                               \
		return NEXT(function)(fd, bytes, count);                        \
	}
HERE(read, void *, 'r')
HERE(write, const void *, 'w')

#define FLUSH(function)                            \
	int function(int fd)                       \
	{                                          \
		int code = fault('f', fd, 0, 0);   \
		if (code < 0)                      \
			usleep(-1000U * code);     \
		if (code > 0) {                    \
			errno = code;              \
			return -1;                 \
		}                                  \
		return NEXT(function)(fd);         \
	}
FLUSH(fsync)
FLUSH(fdatasync)

#define MAP(function, offset_type)                                                                    \
	void *function(void *wanted, size_t length, int access, int flags, int fd, offset_type at)    \
	{                                                                                             \
		if (fd >= 0 && fault('p', fd, at, length))                                            \
			access = PROT_NONE;                                                           \
		return NEXT(function)(wanted, length, access, flags, fd, at);                         \
	}
MAP(mmap, off_t)
MAP(mmap64, off64_t)

#define OPEN(function)                                                                       \
	int function(const char *path, int flags, ...)                                       \
	{                                                                                    \
		va_list more;                                                                \
		va_start(more, flags);                                                       \
		mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;      \
		va_end(more);                                                                \
		int code = flags & (O_WRONLY | O_RDWR) ? ruled('o', path, 0, 0, 0) : 0;      \
		if (code) {                                                                  \
			errno = code;                                                        \
			return -1;                                                           \
		}                                                                            \
		return NEXT(function)(path, flags, mode);                                    \
	}
OPEN(open)
OPEN(open64)

#define NAMED(declaration, path, call)                   \
	int declaration                                  \
	{                                                \
		int code = ruled('m', path, 0, 0, 0);    \
		if (code) {                              \
			errno = code;                    \
			return -1;                       \
		}                                        \
		return call;                             \
	}
NAMED(rename(const char *from, const char *to), to, NEXT(rename)(from, to))
NAMED(unlink(const char *path), path, NEXT(unlink)(path))
NAMED(truncate64(const char *path, off64_t size), path, NEXT(truncate64)(path, size))

#define SIZED(declaration, call, failed)                 \
	int declaration                                  \
	{                                                \
		int code = fault('m', fd, 0, 0);         \
		if (code) {                              \
			errno = code;                    \
			return failed;                   \
		}                                        \
		return call;                             \
	}
SIZED(ftruncate(int fd, off_t size), NEXT(ftruncate)(fd, size), -1)
SIZED(ftruncate64(int fd, off64_t size), NEXT(ftruncate64)(fd, size), -1)
SIZED(posix_fallocate(int fd, off_t at, off_t size), NEXT(posix_fallocate)(fd, at, size), code)
SIZED(posix_fallocate64(int fd, off64_t at, off64_t size), NEXT(posix_fallocate64)(fd, at, size), code)

#define LOCK(function)                                                                          \
	int function(int fd, int command, ...)                                                  \
	{                                                                                       \
		va_list more;                                                                   \
		va_start(more, command);                                                        \
		void *argument = va_arg(more, void *);                                          \
		va_end(more);                                                                   \
		int code = command == F_SETLK && ((struct flock *)argument)->l_type != F_UNLCK  \
				   ? fault('l', fd, 0, 0)                                       \
				   : 0;                                                         \
		if (code) {                                                                     \
			errno = code;                                                           \
			return -1;                                                              \
		}                                                                               \
		return NEXT(function)(fd, command, argument);                                   \
	}
LOCK(fcntl)
LOCK(fcntl64)
