// SPDX-License-Identifier: Apache-2.0
/* The ring that the capture programs write to: drains it, waits for it. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <linux/bpf.h>

#include "capture-parts.h"

#define RECORD_AT(ring, position) ((const uint32_t *)((ring)->data + ((position) & ((ring)->data_bytes - 1))))

/* The layout is that of kernel/bpf/ringbuf.c: consumer page (writable), producer page, data mapped twice in a row. */
int map_ring(struct capture *capture, size_t ring_bytes)
{
	struct ring *ring = &capture->ring;
	void *at;

	ring->page_bytes = sysconf(_SC_PAGESIZE);
	ring->data_bytes = ring_bytes;
	at = mmap(NULL, ring->page_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, capture->ring_fd, 0);
	if (at == MAP_FAILED)
		return -errno;
	ring->consumer = at;
	at = mmap(NULL, ring->page_bytes + 2 * ring_bytes, PROT_READ, MAP_SHARED, capture->ring_fd, ring->page_bytes);
	if (at == MAP_FAILED)
		return -errno;
	ring->producer = at;
	ring->data = (const uint8_t *)at + ring->page_bytes;
	return 0;
}

void unmap_ring(struct ring *ring)
{
	if (ring->consumer)
		munmap(ring->consumer, ring->page_bytes);
	if (ring->producer)
		munmap(ring->producer, ring->page_bytes + 2 * ring->data_bytes);
}

int drain_ring(struct capture *capture, uint8_t *out, uint32_t out_bytes)
{
	struct ring *ring = &capture->ring;
	unsigned long consumer = *ring->consumer;
	unsigned long producer = __atomic_load_n(ring->producer, __ATOMIC_ACQUIRE);
	uint32_t copied = 0;

	while (consumer < producer) {
		const uint32_t *header = RECORD_AT(ring, consumer);
		uint32_t length = __atomic_load_n(header, __ATOMIC_ACQUIRE);
		uint32_t bytes = length & ~(BPF_RINGBUF_BUSY_BIT | BPF_RINGBUF_DISCARD_BIT);

		if (length & BPF_RINGBUF_BUSY_BIT)
			break;
		if (!(length & BPF_RINGBUF_DISCARD_BIT)) {
			if (bytes > out_bytes - copied)
				break;
			memcpy(out + copied, (const uint8_t *)header + BPF_RINGBUF_HDR_SZ, bytes);
			copied += bytes;
		}
		consumer += (bytes + BPF_RINGBUF_HDR_SZ + 7) & ~7ul;
	}
	__atomic_store_n(ring->consumer, consumer, __ATOMIC_RELEASE);
	if (copied > 0)
		__atomic_store_n(&capture->found, true, __ATOMIC_RELAXED);
	return copied;
}

/* ---- waiting ---- */

enum ring_state { RING_EMPTY, RING_READY, RING_BUSY };

/* Busy: the next record is being written. That takes well under a microsecond, unless its writer was preempted. */
static enum ring_state look_at(const struct ring *ring)
{
	unsigned long consumer = *(volatile unsigned long *)ring->consumer;

	if (__atomic_load_n(ring->producer, __ATOMIC_ACQUIRE) == consumer)
		return RING_EMPTY;
	return __atomic_load_n(RECORD_AT(ring, consumer), __ATOMIC_ACQUIRE) & BPF_RINGBUF_BUSY_BIT ? RING_BUSY :
												     RING_READY;
}

#define MM_BUSY_PAUSE_US 50

static int64_t now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000ll + now.tv_nsec / 1000;
}

/* Sleeps until the time is over, the wait is interrupted (returns true), or the ring has something if it is asked. */
static bool sleep_us(struct capture *capture, int64_t us, bool or_ring)
{
	struct pollfd fds[2] = {
		{ .fd = capture->wake_fd, .events = POLLIN },
		{ .fd = capture->ring_fd, .events = POLLIN },
	};
	struct timespec timeout = { .tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000 };
	uint64_t count;

	if (us <= 0 || ppoll(fds, or_ring ? 2 : 1, &timeout, NULL) <= 0)
		return false;
	/* When it closes, every wait is to see that: the event stays. */
	return __atomic_load_n(&capture->closing, __ATOMIC_SEQ_CST) ||
	       read(capture->wake_fd, &count, sizeof(count)) > 0;
}

/* See capture-common.h for the other half of this protocol. */
static bool sleep_until_woken(struct capture *capture, int64_t us)
{
	uint32_t *waiting = &capture->shared->consumer_waiting;
	bool interrupted = false;

	__atomic_store_n(waiting, 1, __ATOMIC_SEQ_CST);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (look_at(&capture->ring) == RING_EMPTY)
		interrupted = sleep_us(capture, us, true);
	__atomic_store_n(waiting, 0, __ATOMIC_SEQ_CST);
	return interrupted;
}

int wait_for_records(struct capture *capture, int64_t timeout_us, uint32_t quiet_us)
{
	int64_t end = now_us() + timeout_us;
	bool interrupted = false;

	if (__atomic_exchange_n(&capture->found, false, __ATOMIC_RELAXED) && quiet_us)
		interrupted = sleep_us(capture, quiet_us < timeout_us ? quiet_us : timeout_us, false);
	while (!interrupted && !__atomic_load_n(&capture->closing, __ATOMIC_SEQ_CST)) {
		enum ring_state state = look_at(&capture->ring);
		int64_t left = end - now_us();

		if (state == RING_READY)
			return 1;
		if (left <= 0)
			return 0;
		if (state == RING_BUSY)
			interrupted = sleep_us(capture, MM_BUSY_PAUSE_US, false);
		else
			interrupted = sleep_until_woken(capture, left);
	}
	return __atomic_load_n(&capture->closing, __ATOMIC_SEQ_CST) ? -EBADF : 0;
}

void interrupt_wait(struct capture *capture)
{
	uint64_t one = 1;
	ssize_t written = write(capture->wake_fd, &one, sizeof(one));

	(void)written; /* fails only if the counter is at its end: then it is readable anyway */
}
