/*
 * Preloaded by the tests of the Python hook, in front of the shim or in its place. Each call of the interface in
 * zerogpu.h is written as one line to the file that HOOK_LOG names and passed on to the next object that exports the
 * function, the real shim. Where there is none the recorder answers by itself, as a shim that has nothing to do.
 *
 * More calls let a test play the rest of the world: hook_expire() makes the deadline of a region pass, hook_refuse()
 * lets each following begin fail with a text, hook_block() holds each following begin until hook_unblock(),
 * hook_state() chooses what zerogpu_state() answers, hook_signal() has the next begin or end raise a signal in its thread
 * right before it returns, hook_region() tells a region's number, hook_rests() whether it rests, and hook_stops() how often
 * zerogpu_stop_waiting() was called. hook_hold_claims(1) holds each following zerogpu_region_claim() until
 * hook_hold_claims(0), and hook_refuse_claims() lets it fail with a text;
 * hook_claims() tells how many were made.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "zerogpu.h"

enum { REGIONS = 1024 };

/* Beyond 2^63: a hook that takes a region for a signed or a 32-bit number is found out. */
static const uint64_t FIRST = 0xfedcba9800000001u;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t unblocked = PTHREAD_COND_INITIALIZER;
static int blocked, claims_held;
static uint64_t count;
static int stops, claims;
static struct { uint64_t region; int open, expired, rests; } table[REGIONS];
static char refusal[200], claim_refusal[200], state[200];
static char interrupted[20];
static __thread char reason[200];

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void record(const char *call, uint64_t region, const char *detail)
{
	static int log = -1;
	if (log < 0)
		log = open(getenv("HOOK_LOG"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	if (dprintf(log, "%d %s %llu %s\n", (int)getpid(), call, (unsigned long long)region, detail) < 0)
		abort();
}

/* The row of an open region, or of none: the last row, which is never open. Called with the lock held. */
static int row(uint64_t region)
{
	int i = 0;
	while (i < REGIONS - 1 && !(table[i].open && table[i].region == region))
		i++;
	return i;
}

static void interrupt(const char *call)
{
	if (strcmp(interrupted, call))
		return;
	interrupted[0] = 0;
	raise(SIGUSR1);
}

uint64_t zerogpu_region_begin(double seconds)
{
	pthread_mutex_lock(&lock);
	while (blocked)
		pthread_cond_wait(&unblocked, &lock);
	strcpy(reason, count < REGIONS - 1 ? refusal : "the recorder's table is full");
	pthread_mutex_unlock(&lock);

	/* Without the lock: the shim may wait here for a GPU that another thread's end gives back. */
	uint64_t region = 0;
	if (!reason[0] && NEXT(zerogpu_region_begin))
		region = NEXT(zerogpu_region_begin)(seconds);
	char detail[32];
	snprintf(detail, sizeof detail, "%g", seconds);

	pthread_mutex_lock(&lock);
	if (!reason[0] && !NEXT(zerogpu_region_begin))
		region = FIRST + count;
	if (region) {
		table[count].region = region;
		table[count].open = 1;
		count++;
	}
	record("begin", region, detail);
	pthread_mutex_unlock(&lock);
	interrupt("begin");
	return region;
}

int zerogpu_region_claim(uint64_t region)
{
	pthread_mutex_lock(&lock);
	record("claim", region, table[row(region)].open ? "ok" : "unknown");
	claims++;
	while (claims_held)
		pthread_cond_wait(&unblocked, &lock);
	int failed = !table[row(region)].open || claim_refusal[0];
	strcpy(reason, claim_refusal);
	pthread_mutex_unlock(&lock);
	return failed || !NEXT(zerogpu_region_claim) ? failed : NEXT(zerogpu_region_claim)(region);
}

int zerogpu_region_end(uint64_t region)
{
	pthread_mutex_lock(&lock);
	int i = row(region), failed = !table[i].open;
	table[i].open = 0;
	record("end", region, failed ? "unknown" : "ok");
	strcpy(reason, failed ? "no such region is open" : "");
	pthread_mutex_unlock(&lock);
	if (NEXT(zerogpu_region_end))
		failed = NEXT(zerogpu_region_end)(region);
	interrupt("end");
	return failed;
}

int zerogpu_region_movable(uint64_t region)
{
	pthread_mutex_lock(&lock);
	int failed = !table[row(region)].open;
	record("movable", region, failed ? "unknown" : "ok");
	strcpy(reason, failed ? "no such region is open" : "");
	pthread_mutex_unlock(&lock);
	return NEXT(zerogpu_region_movable) ? NEXT(zerogpu_region_movable)(region) : failed;
}

int zerogpu_region_rests(uint64_t region, int rests)
{
	pthread_mutex_lock(&lock);
	int i = row(region), failed = !table[i].open;
	if (!failed)
		table[i].rests = rests;
	pthread_mutex_unlock(&lock);
	return NEXT(zerogpu_region_rests) ? NEXT(zerogpu_region_rests)(region, rests) : failed;
}

int hook_rests(int nth)
{
	pthread_mutex_lock(&lock);
	int rests = nth <= count ? table[nth - 1].rests : -1;
	pthread_mutex_unlock(&lock);
	return rests;
}

int zerogpu_region_expired(uint64_t region)
{
	pthread_mutex_lock(&lock);
	int i = row(region), expired = table[i].open && table[i].expired;
	pthread_mutex_unlock(&lock);
	return expired || (NEXT(zerogpu_region_expired) && NEXT(zerogpu_region_expired)(region));
}

int zerogpu_stop_waiting(void)
{
	pthread_mutex_lock(&lock);
	stops++;
	pthread_mutex_unlock(&lock);
	return NEXT(zerogpu_stop_waiting) ? NEXT(zerogpu_stop_waiting)() : 1;
}

int hook_stops(void)
{
	pthread_mutex_lock(&lock);
	int called = stops;
	pthread_mutex_unlock(&lock);
	return called;
}

int hook_claims(void)
{
	pthread_mutex_lock(&lock);
	int called = claims;
	pthread_mutex_unlock(&lock);
	return called;
}

int zerogpu_state(char *buf, size_t n)
{
	pthread_mutex_lock(&lock);
	int length = state[0] ? snprintf(buf, n, "%s", state) : 0;
	pthread_mutex_unlock(&lock);
	if (length)
		return length;
	if (NEXT(zerogpu_state))
		return NEXT(zerogpu_state)(buf, n);
	/* Longer than a hook's first guess at the buffer's size. */
	return snprintf(buf, n, "{\"level\": \"parked\", \"regions\": 0, \"bound_by\": [], \"more\": \"%02000d\"}", 0);
}

const char *zerogpu_reason(void)
{
	return reason[0] || !NEXT(zerogpu_reason) ? reason : NEXT(zerogpu_reason)();
}

/* Lets the deadline pass of the region that was opened as number `nth`, counted from 1. */
void hook_expire(int nth)
{
	pthread_mutex_lock(&lock);
	table[nth - 1].expired = 1;
	pthread_mutex_unlock(&lock);
}

void hook_refuse(const char *text)
{
	pthread_mutex_lock(&lock);
	snprintf(refusal, sizeof refusal, "%s", text);
	pthread_mutex_unlock(&lock);
}

/* The next such call, "begin" or "end", raises SIGUSR1 before it returns. */
void hook_signal(const char *call)
{
	snprintf(interrupted, sizeof interrupted, "%s", call);
}

/* From now on zerogpu_state() answers this. */
void hook_state(const char *json)
{
	pthread_mutex_lock(&lock);
	snprintf(state, sizeof state, "%s", json);
	pthread_mutex_unlock(&lock);
}

/* The number of the region that was opened as number `nth`, counted from 1. */
uint64_t hook_region(int nth)
{
	pthread_mutex_lock(&lock);
	uint64_t region = table[nth - 1].region;
	pthread_mutex_unlock(&lock);
	return region;
}

/* Whether zerogpu_region_claim() waits from now on. */
void hook_hold_claims(int hold)
{
	pthread_mutex_lock(&lock);
	claims_held = hold;
	pthread_cond_broadcast(&unblocked);
	pthread_mutex_unlock(&lock);
}

void hook_refuse_claims(const char *text)
{
	pthread_mutex_lock(&lock);
	snprintf(claim_refusal, sizeof claim_refusal, "%s", text);
	pthread_mutex_unlock(&lock);
}

/* From now on zerogpu_region_begin() waits. */
void hook_block(void)
{
	pthread_mutex_lock(&lock);
	blocked = 1;
	pthread_mutex_unlock(&lock);
}

void hook_unblock(void)
{
	pthread_mutex_lock(&lock);
	blocked = 0;
	pthread_cond_broadcast(&unblocked);
	pthread_mutex_unlock(&lock);
}
