/* Preloaded into a process, makes reads, writes and flushes of chosen files fail, as a worn disk does.
 *
 * FAILING_DISK names a file of rules, one a line, read at every call so that they may change meanwhile:
 *
 *	r INODE FIRST LAST ERRNO   a read that touches a byte from FIRST to LAST of the file fails, and a
 *	                           mapping of such a byte ends the process at the first access
 *	w INODE FIRST LAST ERRNO   a write that does
 *	f INODE 0 0 ERRNO          every flush
 *
 * INODE may be * for every file. Only files directly below FAILING_DISK_DIR count.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* The errno of the first rule for this call, or 0. */
static int fault(char kind, int fd, int64_t begin, int64_t length)
{
	const char *rules = getenv("FAILING_DISK"), *below = getenv("FAILING_DISK_DIR");
	char link[32], path[PATH_MAX], text[4096], ruled[256], op;
	long long first, last;
	int code, saved = errno, found = 0;
	if (rules == NULL || below == NULL)
		return 0;
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	ssize_t size = readlink(link, path, sizeof path - 1);
	size_t directory = strlen(below);
	if (size > 0) {
		path[size] = '\0';
		int rules_fd = strncmp(path, below, directory) == 0 && path[directory] == '/'
				       ? NEXT(open)(rules, O_RDONLY | O_CLOEXEC)
				       : -1;
		if (rules_fd >= 0) {
			ssize_t got = NEXT(read)(rules_fd, text, sizeof text - 1);
			close(rules_fd);
			text[got > 0 ? got : 0] = '\0';
			struct stat file;
			char inode[32];
			fstat(fd, &file);
			snprintf(inode, sizeof inode, "%llu", (unsigned long long)file.st_ino);
			for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n"))
				if (sscanf(line, "%c %255s %lld %lld %d", &op, ruled, &first, &last, &code) == 5 &&
				    op == kind && (strcmp(ruled, "*") == 0 || strcmp(ruled, inode) == 0) &&
				    (kind == 'f' || (begin <= last && begin + length > first))) {
					found = code;
					break;
				}
		}
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
		if (code) {                        \
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
		if (fd >= 0 && fault('r', fd, at, length))                                            \
			access = PROT_NONE;                                                           \
		return NEXT(function)(wanted, length, access, flags, fd, at);                         \
	}
MAP(mmap, off_t)
MAP(mmap64, off64_t)
