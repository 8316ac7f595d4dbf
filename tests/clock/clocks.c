/* Preloaded into a process, gives it the clocks of another machine: a wall clock and a boot-time clock that
 * are off from the real ones by what a control file says, a synchronisation status and a boot id of its own.
 *
 * CLOCKS_FILE is the control file (struct control below, native order), mapped, so that a change counts at
 * once. CLOCKS_BOOT_ID is a file that is read in place of the kernel's boot id.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

struct control {
	int64_t wall_ahead_us;
	int64_t boot_ahead_us;
	int64_t synchronised;
	int64_t max_error_us;
};

static volatile struct control *control;

__attribute__((constructor)) static void begin(void)
{
	const char *path = getenv("CLOCKS_FILE");
	int fd = path == NULL ? -1 : NEXT(open)(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		abort();
	control = mmap(NULL, sizeof *control, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	if (control == MAP_FAILED)
		abort();
}

static void move(struct timespec *at, int64_t us)
{
	int64_t ns = (int64_t)at->tv_sec * 1000000000 + at->tv_nsec + us * 1000;
	at->tv_sec = ns / 1000000000;
	at->tv_nsec = ns % 1000000000;
}

int clock_gettime(clockid_t clock, struct timespec *at)
{
	int failed = NEXT(clock_gettime)(clock, at);
	if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		move(at, control->wall_ahead_us);
	if (!failed && clock == CLOCK_BOOTTIME)
		move(at, control->boot_ahead_us);
	return failed;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone)
{
	struct timespec now;
	(void)zone;
	clock_gettime(CLOCK_REALTIME, &now);
	at->tv_sec = now.tv_sec;
	at->tv_usec = now.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *at)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	if (at != NULL)
		*at = now.tv_sec;
	return now.tv_sec;
}

int adjtimex(struct timex *timex)
{
	timex->maxerror = control->max_error_us;
	return control->synchronised ? TIME_OK : TIME_ERROR;
}

static const char *other(const char *path)
{
	return strcmp(path, "/proc/sys/kernel/random/boot_id") == 0 ? getenv("CLOCKS_BOOT_ID") : path;
}

#define OPEN(name) \
	int name(const char *path, int flags, ...) \
	{ \
		va_list rest; \
		va_start(rest, flags); \
		mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
		va_end(rest); \
		return NEXT(name)(other(path), flags, mode); \
	}

OPEN(open)
OPEN(open64)
