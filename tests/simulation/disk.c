/* Preloaded into the process of a simulation: the disk below the state directory, with faults that are set in
 * memory, and with a record of what is not flushed yet, so that a power cut can lose it.
 *
 * Kinds of operations: r read, w write, f flush, o opening a file for writing, m renaming, removing, truncating
 * and allocating a file, l taking a lock of fcntl(2). Only files directly below the directory of disk_use() count.
 * Names change immediately and for good; what recorder.c of tests/powercut adds is the order of those.
 * What a flush that failed did not write is never written, as Linux marks its pages clean: a later flush that
 * succeeds does not contain it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define REAL(name)                                                             \
	({                                                                     \
		static __typeof__(&name) real;                                 \
		if (!real)                                                     \
			real = (__typeof__(&name))dlsym(RTLD_NEXT, #name);     \
		real;                                                          \
	})
#define DESCRIPTORS 4096
#define NAME 48
#define RULES 16

/* What a rule does in place of an errno. */
enum { SHORT = -1, TORN = -2 };

struct rule {
	char begins[8], kinds[8], name[NAME]; /* of the first operation that fails, and of those after it */
	long long skip, count; /* matching operations that pass first, and that fail then; -1: all */
	long long first, last; /* bytes that a read or write has to touch */
	int code, has_begun;
};
struct piece {
	char name[NAME];
	long long at, size_before;
	char *old_bytes, *new_bytes;
	long long old_size, new_size; /* new_size -1: truncated to `at` */
	int is_lost;		      /* by a flush that failed: never on the medium, unless it is written again */
};

static char directory[4096];
static size_t directory_length;
static char names[DESCRIPTORS][NAME];
static struct rule rules[RULES];
static int rule_count, is_frozen, is_paused;
static long long counts[128], fired[128], freeze_after = -1, room = -1;
static double slept_s;
static struct piece *pieces;
static size_t piece_count, piece_room;

static int is_forgotten(const struct piece *one, const char *name, int lost_too)
{
	return (name == NULL || strcmp(one->name, name) == 0) && (lost_too || !one->is_lost);
}

static void forget_pieces(const char *name, int lost_too)
{
	size_t kept = 0;
	for (size_t i = 0; i < piece_count; i++) {
		if (is_forgotten(&pieces[i], name, lost_too)) {
			free(pieces[i].old_bytes);
			free(pieces[i].new_bytes);
		} else
			pieces[kept++] = pieces[i];
	}
	piece_count = kept;
}

/* --- for the simulation ------------------------------------------------------------------------- */

void disk_use(const char *path)
{
	directory_length = strlen(path);
	memcpy(directory, path, directory_length + 1);
	memset(names, 0, sizeof names);
	forget_pieces(NULL, 1);
	is_frozen = 0;
	freeze_after = -1;
}

/* Everything is on the medium, as some time after it was written. */
void disk_write_back(void)
{
	forget_pieces(NULL, 0);
}

/* While paused, nothing fails and nothing is counted. */
void disk_pause(int paused)
{
	is_paused = paused;
}

void disk_clear_rules(void)
{
	rule_count = 0;
}

void disk_rule(const char *begins, const char *kinds, const char *name, long long skip, long long count, long long first,
	       long long last, int code)
{
	if (rule_count == RULES)
		return;
	struct rule *rule = &rules[rule_count++];
	strncpy(rule->begins, begins, sizeof rule->begins - 1);
	strncpy(rule->kinds, kinds, sizeof rule->kinds - 1);
	strncpy(rule->name, name, NAME - 1);
	rule->skip = skip, rule->count = count, rule->first = first, rule->last = last, rule->code = code;
	rule->has_begun = 0;
}

/* The process dies before the write, flush or change of a name that comes after so many others. */
void disk_freeze_after(long long operations)
{
	freeze_after = operations;
	is_frozen = 0;
}

int disk_is_frozen(void)
{
	return is_frozen;
}

void disk_set_room(long long bytes)
{
	room = bytes;
}

long long disk_room(void)
{
	return room;
}

long long disk_count(char kind)
{
	return counts[(int)kind];
}

long long disk_fired(char kind)
{
	return fired[(int)kind];
}

double disk_slept_s(void)
{
	double slept = slept_s;
	slept_s = 0;
	return slept;
}

/* What was written since the last flush of its file, oldest first. */
size_t disk_unflushed(void (*each)(const char *, long long, long long, const char *, long long, const char *, long long,
				   int))
{
	for (size_t i = 0; each != NULL && i < piece_count; i++) {
		struct piece *one = &pieces[i];
		each(one->name, one->at, one->size_before, one->old_bytes, one->old_size, one->new_bytes,
		     one->new_size, one->is_lost);
	}
	return piece_count;
}

/* --- one operation -------------------------------------------------------------------------------- */

static const char *name_of(const char *path)
{
	if (directory_length == 0 || strncmp(path, directory, directory_length) != 0 || path[directory_length] != '/')
		return NULL;
	const char *name = path + directory_length + 1;
	return strchr(name, '/') == NULL && strlen(name) < NAME ? name : NULL;
}

static const char *name_at(int fd)
{
	return fd >= 0 && fd < DESCRIPTORS && names[fd][0] ? names[fd] : NULL;
}

/* 0, an errno, SHORT or TORN. */
static int fault(char kind, const char *name, long long at, long long length)
{
	if (name == NULL || is_paused)
		return 0;
	counts[(int)kind]++;
	if (kind != 'r' && kind != 'l') {
		if (freeze_after == 0)
			is_frozen = 1;
		else if (freeze_after > 0)
			freeze_after--;
		if (is_frozen)
			return EIO;
	}
	for (int i = 0; i < rule_count; i++) {
		struct rule *rule = &rules[i];
		if (strchr(rule->has_begun ? rule->kinds : rule->begins, kind) == NULL)
			continue;
		if (rule->name[0] != '*' && strncmp(rule->name, name, strlen(rule->name)) != 0)
			continue;
		if (length && (at > rule->last || at + length <= rule->first))
			continue;
		if (rule->skip > 0) {
			rule->skip--;
			continue;
		}
		if (rule->count == 0)
			continue;
		if (rule->count > 0)
			rule->count--;
		rule->has_begun = 1;
		fired[(int)kind]++;
		return rule->code;
	}
	return 0;
}

static long long size_of(int fd)
{
	struct stat file;
	return fstat(fd, &file) == 0 ? file.st_size : 0;
}

/* Whether there is room for a file to grow; takes it. */
static int takes_room(long long growth)
{
	if (room < 0)
		return 1;
	if (growth > room) {
		fired['n']++;
		return 0;
	}
	room -= growth;
	return 1;
}

/* A flush has failed: its pages count as clean from now on. */
static void lose_pieces(const char *name)
{
	for (size_t i = 0; i < piece_count; i++)
		pieces[i].is_lost |= strcmp(pieces[i].name, name) == 0 && pieces[i].new_size >= 0;
}

/* What was lost is written again, or cut off. */
static void replace_lost(const char *name, long long at, long long end)
{
	for (size_t i = 0; i < piece_count; i++) {
		struct piece *one = &pieces[i];
		if (one->is_lost && strcmp(one->name, name) == 0 && one->at < end && one->at + one->new_size > at)
			one->new_size = one->old_size = 0;
	}
}

/* The index of SQLite's log: the first process that opens it begins it anew, whatever it contains. */
static int is_index(const char *name)
{
	size_t length = strlen(name);
	return length > 4 && strcmp(name + length - 4, "-shm") == 0;
}

static void note(int fd, const char *name, long long at, const void *bytes, long long length, long long size)
{
	if (is_index(name))
		return;
	replace_lost(name, at, length < 0 ? size : at + length);
	if (piece_count == piece_room) {
		piece_room = piece_room ? 2 * piece_room : 256;
		pieces = realloc(pieces, piece_room * sizeof *pieces);
	}
	struct piece *one = &pieces[piece_count++];
	long long old = length < 0 ? size - at : (at + length < size ? length : size - at);
	strcpy(one->name, name);
	one->at = at, one->size_before = size;
	one->old_size = old > 0 ? old : 0;
	one->old_bytes = malloc(one->old_size ? one->old_size : 1);
	if (one->old_size)
		one->old_size = REAL(pread64)(fd, one->old_bytes, one->old_size, at);
	one->is_lost = 0;
	one->new_size = length;
	one->new_bytes = malloc(length > 0 ? length : 1);
	if (length > 0)
		memcpy(one->new_bytes, bytes, length);
}

static ssize_t written(int fd, const void *bytes, size_t count, long long at, int *failed)
{
	const char *name = name_at(fd);
	int code = fault('w', name, at, count);
	*failed = code;
	if (code > 0) {
		errno = code;
		return -1;
	}
	if (code && count > 1)
		count = count / 2;
	if (name != NULL) {
		long long size = size_of(fd), growth = at + (long long)count - size;
		if (growth > 0 && !takes_room(growth)) {
			errno = *failed = ENOSPC;
			return -1;
		}
		note(fd, name, at, bytes, count, size);
	}
	return count;
}

#define WRITE_AT(function, offset_type)                                                    \
	ssize_t function(int fd, const void *bytes, size_t count, offset_type at)          \
	{                                                                                  \
		int code;                                                                  \
		ssize_t size = written(fd, bytes, count, at, &code);                       \
		if (size < 0)                                                              \
			return size;                                                       \
		size = REAL(function)(fd, bytes, size, at);                                \
		if (code == TORN) {                                                        \
			errno = EIO;                                                       \
			return -1;                                                         \
		}                                                                          \
		return size;                                                               \
	}
WRITE_AT(pwrite, off_t)
WRITE_AT(pwrite64, off64_t)

#define READ_AT(function, offset_type)                                                     \
	ssize_t function(int fd, void *bytes, size_t count, offset_type at)                \
	{                                                                                  \
		int code = fault('r', name_at(fd), at, count);                             \
		if (code > 0) {                                                            \
			errno = code;                                                      \
			return -1;                                                         \
		}                                                                          \
		return REAL(function)(fd, bytes, count, at);                               \
	}
READ_AT(pread, off_t)
READ_AT(pread64, off64_t)

#define FLUSH(function)                                                                    \
	int function(int fd)                                                               \
	{                                                                                  \
		const char *name = name_at(fd);                                            \
		int code = fault('f', name, 0, 0);                                         \
		if (code > 0) {                                                            \
			if (!is_frozen)                                                    \
				lose_pieces(name);                                         \
			errno = code;                                                      \
			return -1;                                                         \
		}                                                                          \
		if (name != NULL)                                                          \
			forget_pieces(name, 0);                                            \
		return name != NULL ? 0 : REAL(function)(fd);                              \
	}
FLUSH(fsync)
FLUSH(fdatasync)

#define OPEN(function)                                                                     \
	int function(const char *path, int flags, ...)                                     \
	{                                                                                  \
		va_list more;                                                              \
		va_start(more, flags);                                                     \
		mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;    \
		va_end(more);                                                              \
		const char *name = name_of(path);                                          \
		int code = flags & (O_WRONLY | O_RDWR) ? fault('o', name, 0, 0) : 0;       \
		if (code > 0) {                                                            \
			errno = code;                                                      \
			return -1;                                                         \
		}                                                                          \
		int fd = REAL(function)(path, flags, mode);                                \
		if (fd >= 0 && fd < DESCRIPTORS) {                                         \
			names[fd][0] = '\0';                                               \
			if (name != NULL)                                                  \
				strcpy(names[fd], name);                                   \
		}                                                                          \
		return fd;                                                                 \
	}
OPEN(open)
OPEN(open64)

int close(int fd)
{
	if (fd >= 0 && fd < DESCRIPTORS)
		names[fd][0] = '\0';
	return REAL(close)(fd);
}

static int changed(const char *name)
{
	int code = fault('m', name, 0, 0);
	if (code > 0)
		errno = code;
	return code > 0 ? -1 : 0;
}

int rename(const char *from, const char *to)
{
	const char *old = name_of(from), *name = name_of(to);
	if (changed(name))
		return -1;
	int done = REAL(rename)(from, to);
	if (done == 0 && old != NULL && name != NULL) {
		forget_pieces(name, 1);
		for (size_t i = 0; i < piece_count; i++)
			if (strcmp(pieces[i].name, old) == 0)
				strcpy(pieces[i].name, name);
		for (int fd = 0; fd < DESCRIPTORS; fd++)
			if (strcmp(names[fd], old) == 0)
				strcpy(names[fd], name);
	}
	return done;
}

int unlink(const char *path)
{
	const char *name = name_of(path);
	struct stat file;
	if (changed(name))
		return -1;
	if (name != NULL && room >= 0 && lstat(path, &file) == 0)
		room += file.st_size;
	if (name != NULL)
		forget_pieces(name, 1);
	return REAL(unlink)(path);
}

#define TRUNCATE(function, size_type)                                                      \
	int function(int fd, size_type size)                                               \
	{                                                                                  \
		const char *name = name_at(fd);                                            \
		if (changed(name))                                                         \
			return -1;                                                         \
		if (name != NULL) {                                                        \
			long long before = size_of(fd);                                    \
			if (size > before && !takes_room(size - before)) {                 \
				errno = ENOSPC;                                            \
				return -1;                                                 \
			}                                                                  \
			if (size < before && room >= 0)                                    \
				room += before - size;                                     \
			note(fd, name, size, NULL, -1, before);                            \
		}                                                                          \
		return REAL(function)(fd, size);                                           \
	}
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define ALLOCATE(function, size_type)                                                      \
	int function(int fd, size_type at, size_type size)                                 \
	{                                                                                  \
		const char *name = name_at(fd);                                            \
		int code = fault('m', name, 0, 0);                                         \
		if (code > 0)                                                              \
			return code;                                                       \
		long long before = name != NULL ? size_of(fd) : 0;                         \
		if (name != NULL && at + size > before && !takes_room(at + size - before)) \
			return ENOSPC;                                                     \
		return REAL(function)(fd, at, size);                                       \
	}
ALLOCATE(posix_fallocate, off_t)
ALLOCATE(posix_fallocate64, off64_t)

#define LOCK(function)                                                                     \
	int function(int fd, int command, ...)                                             \
	{                                                                                  \
		va_list more;                                                              \
		va_start(more, command);                                                   \
		void *argument = va_arg(more, void *);                                     \
		va_end(more);                                                              \
		if (command == F_SETLK && ((struct flock *)argument)->l_type != F_UNLCK) { \
			int code = fault('l', name_at(fd), 0, 0);                          \
			if (code > 0) {                                                    \
				errno = code;                                              \
				return -1;                                                 \
			}                                                                  \
		}                                                                          \
		return REAL(function)(fd, command, argument);                              \
	}
LOCK(fcntl)
LOCK(fcntl64)

/* SQLite waits for a lock: simulated time passes, real time does not. */
int usleep(useconds_t us)
{
	slept_s += us / 1e6;
	return 0;
}
