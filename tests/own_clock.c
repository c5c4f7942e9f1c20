/* A time of day of a process's own, for LD_PRELOAD: CLOCK_AHEAD_SECONDS ahead of the machine's.

   CLOCK_MONOTONIC is left alone, and waits until a time of day are moved back to the machine's. libfaketime 0.9.10 moves
   waits of CLOCK_MONOTONIC, too, so that those of Python 3.11 and later fail or never end. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#define FIRST_TIME_OF_DAY 1000000000 /* a machine that has run for less than 30 years says less */

static long machine_s_syscall(long number, long a, long b, long c, long d, long e, long f) {
    static long (*found)(long, ...);
    if (!found) found = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    return found(number, a, b, c, d, e, f);
}

static time_t ahead(void) {
    const char *seconds = getenv("CLOCK_AHEAD_SECONDS");
    return seconds ? atol(seconds) : 0;
}

static struct timespec moved(const struct timespec *until) {
    struct timespec back = *until;
    back.tv_sec -= ahead();
    return back;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    long failed = machine_s_syscall(SYS_clock_gettime, clock, (long)now, 0, 0, 0, 0);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += ahead();
    return (int)failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec precise;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &precise);
    *now = (struct timeval){.tv_sec = precise.tv_sec, .tv_usec = precise.tv_nsec / 1000};
    return 0;
}

time_t time(time_t *kept) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (kept) *kept = now.tv_sec;
    return now.tv_sec;
}

/* Waits until a time of day */

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    if (until->tv_sec < FIRST_TIME_OF_DAY) return pthread_cond_clockwait(condition, mutex, CLOCK_MONOTONIC, until);
    struct timespec back = moved(until);
    return pthread_cond_clockwait(condition, mutex, CLOCK_REALTIME, &back);
}

int pthread_mutex_timedlock(pthread_mutex_t *restrict mutex, const struct timespec *restrict until) {
    struct timespec back = moved(until);
    return pthread_mutex_clocklock(mutex, CLOCK_REALTIME, &back);
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until) {
    struct timespec back = moved(until);
    return sem_clockwait(semaphore, CLOCK_REALTIME, &back);
}

long syscall(long number, ...) {
    va_list words;
    long word[6];
    struct timespec back;
    va_start(words, number);
    for (int i = 0; i < 6; i++) word[i] = va_arg(words, long);
    va_end(words);
    if (number == SYS_futex && (word[1] & FUTEX_CLOCK_REALTIME) && word[3]) {
        back = moved((const struct timespec *)word[3]);
        word[3] = (long)&back;
    }
    return machine_s_syscall(number, word[0], word[1], word[2], word[3], word[4], word[5]);
}
