/* Preloaded into a process, writes down every change it makes below one directory, in the order in which
 * the changes took effect: what it wrote where, what it flushed, which names it made and unmade.
 *
 * POWERCUT_DIR is the directory, POWERCUT_LOG the file to append to. Flushes are written down and not
 * carried out: the disk that would honour them is the one that the log is replayed to.
 * One record: kind (1 byte), inode (8), offset or size (8), length (8), then so many bytes, native order.
 */
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
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Held from before a change until it is written down, so that two threads cannot swap their records. */
static pthread_mutex_t order = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static int log_fd = -1;
static char directory[PATH_MAX];
static size_t directory_length;

__attribute__((constructor)) static void begin(void)
{
	const char *path = getenv("POWERCUT_LOG"), *below = getenv("POWERCUT_DIR");
	if (path == NULL || below == NULL || realpath(below, directory) == NULL)
		return;
	directory_length = strlen(directory);
	log_fd = NEXT(open)(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static void note(char kind, uint64_t inode, uint64_t at, const void *bytes, uint64_t length)
{
	char head[25];
	head[0] = kind;
	memcpy(head + 1, &inode, 8);
	memcpy(head + 9, &at, 8);
	memcpy(head + 17, &length, 8);
	struct iovec parts[2] = {{head, sizeof head}, {(void *)bytes, length}};
	if (writev(log_fd, parts, 2) != (ssize_t)(sizeof head + length))
		abort(); /* a log with a gap would prove nothing */
}

/* What the process itself has to say, in order with all the rest. */
void powercut_mark(const char *text)
{
	pthread_mutex_lock(&order);
	if (log_fd >= 0)
		note('M', 0, 0, text, strlen(text));
	pthread_mutex_unlock(&order);
}

/* The name below the directory, or NULL if it is elsewhere; "" for the directory itself. */
static const char *name_of(const char *path)
{
	if (log_fd < 0 || strncmp(path, directory, directory_length) != 0)
		return NULL;
	path += directory_length;
	return *path == '\0' ? path : *path == '/' ? path + 1 : NULL;
}

static const char *absolute(const char *path, char *buffer)
{
	if (path[0] == '/')
		return path;
	if (getcwd(buffer, PATH_MAX) == NULL || strlen(buffer) + strlen(path) + 2 > PATH_MAX)
		return path;
	return strcat(strcat(buffer, "/"), path);
}

static int is_below(int fd, struct stat *found)
{
	char link[32], path[PATH_MAX];
	if (log_fd < 0 || fd == log_fd)
		return 0;
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	ssize_t length = readlink(link, path, sizeof path - 1);
	if (length < 0)
		return 0;
	path[length] = '\0';
	return name_of(path) != NULL && fstat(fd, found) == 0;
}

/* --- names ------------------------------------------------------------------------------------ */

static int opened(int (*real)(const char *, int, ...), const char *path, int flags, mode_t mode)
{
	char buffer[PATH_MAX];
	struct stat found;
	pthread_mutex_lock(&order);
	const char *name = name_of(absolute(path, buffer));
	int is_new = name != NULL && (flags & O_CREAT) && access(path, F_OK) != 0;
	int fd = real(path, flags, mode), error = errno;
	if (fd >= 0 && name != NULL && fstat(fd, &found) == 0) {
		if (is_new)
			note('C', found.st_ino, 0, name, strlen(name));
		else if (flags & O_TRUNC)
			note('T', found.st_ino, 0, NULL, 0);
	}
	pthread_mutex_unlock(&order);
	errno = error;
	return fd;
}

#define OPEN(function)                                             \
	int function(const char *path, int flags, ...)             \
	{                                                          \
		va_list more;                                      \
		va_start(more, flags);                             \
		mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0; \
		va_end(more);                                      \
		return opened(NEXT(function), path, flags, mode);  \
	}
OPEN(open)
OPEN(open64)

int rename(const char *from, const char *to)
{
	char from_buffer[PATH_MAX], to_buffer[PATH_MAX], both[2 * PATH_MAX];
	pthread_mutex_lock(&order);
	const char *old = name_of(absolute(from, from_buffer)), *new = name_of(absolute(to, to_buffer));
	int result = NEXT(rename)(from, to), error = errno;
	if (result == 0 && old != NULL && new != NULL)
		note('R', 0, 0, both, snprintf(both, sizeof both, "%s/%s", old, new));
	pthread_mutex_unlock(&order);
	errno = error;
	return result;
}

int unlink(const char *path)
{
	char buffer[PATH_MAX];
	pthread_mutex_lock(&order);
	const char *name = name_of(absolute(path, buffer));
	int result = NEXT(unlink)(path), error = errno;
	if (result == 0 && name != NULL)
		note('U', 0, 0, name, strlen(name));
	pthread_mutex_unlock(&order);
	errno = error;
	return result;
}

/* --- contents --------------------------------------------------------------------------------- */

#define PWRITE(function, offset_type)                                              \
	ssize_t function(int fd, const void *bytes, size_t count, offset_type at)  \
	{                                                                          \
		struct stat found;                                                 \
		pthread_mutex_lock(&order);                                        \
		ssize_t written = NEXT(function)(fd, bytes, count, at);            \
		int error = errno;                                                 \
		if (written > 0 && is_below(fd, &found))                           \
			note('W', found.st_ino, at, bytes, written);               \
		pthread_mutex_unlock(&order);                                      \
		errno = error;                                                     \
		return written;                                                    \
	}
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t write(int fd, const void *bytes, size_t count)
{
	struct stat found;
	pthread_mutex_lock(&order);
	ssize_t written = NEXT(write)(fd, bytes, count);
	int error = errno;
	if (written > 0 && is_below(fd, &found))
		note('W', found.st_ino, lseek(fd, 0, SEEK_CUR) - written, bytes, written);
	pthread_mutex_unlock(&order);
	errno = error;
	return written;
}

#define FTRUNCATE(function, offset_type)                        \
	int function(int fd, offset_type size)                  \
	{                                                       \
		struct stat found;                              \
		pthread_mutex_lock(&order);                     \
		int result = NEXT(function)(fd, size), error = errno; \
		if (result == 0 && is_below(fd, &found))        \
			note('T', found.st_ino, size, NULL, 0); \
		pthread_mutex_unlock(&order);                   \
		errno = error;                                  \
		return result;                                  \
	}
FTRUNCATE(ftruncate, off_t)
FTRUNCATE(ftruncate64, off64_t)

/* A directory's flush makes its names durable, a file's its content: the inode tells which. */
static int flushed(int fd, int (*real)(int))
{
	struct stat found;
	pthread_mutex_lock(&order);
	int below = is_below(fd, &found);
	if (below)
		note(S_ISDIR(found.st_mode) ? 'D' : 'S', found.st_ino, 0, NULL, 0);
	pthread_mutex_unlock(&order);
	return below ? 0 : real(fd);
}

int fsync(int fd)
{
	return flushed(fd, NEXT(fsync));
}

int fdatasync(int fd)
{
	return flushed(fd, NEXT(fdatasync));
}
