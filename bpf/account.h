/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What happened to an attempt, added to the counters of its destination. */
#ifndef STACKMEND_ACCOUNT_H
#define STACKMEND_ACCOUNT_H

static __always_inline void lose(__u32 reason)
{
	__u64 *count = bpf_map_lookup_elem(MAP(losses), &reason);

	if (count)
		__sync_fetch_and_add(count, 1); /* softirq may come between on the same CPU */
}

static __always_inline void wake(enum urgency urgency)
{
	struct event event = { .urgency = urgency };

	if (bpf_ringbuf_output(MAP(events), &event, sizeof(event), 0))
		lose(LOST_RING_FULL);
}

static __always_inline struct counters *counters_of(const struct destination *key)
{
	struct counters *counters = bpf_map_lookup_elem(MAP(destinations), key);
	struct counters nothing = {};
	bool created;

	if (counters)
		return counters;
	created = !bpf_map_update_elem(MAP(destinations), key, &nothing, BPF_NOEXIST);
	counters = bpf_map_lookup_elem(MAP(destinations), key);
	if (!counters) {
		lose(LOST_MAP_FULL);
		return NULL;
	}
	if (created) {
		counters->first_ns = bpf_ktime_get_ns();
		wake(FIRST_SIGHTING);
	}
	return counters;
}

static __always_inline enum failure failure_of(int error)
{
	switch (error) {
	case ECONNREFUSED:
		return REFUSED;
	case ETIMEDOUT:
		return TIMED_OUT;
	case ENETUNREACH:
	case EHOSTUNREACH:
	case ENETDOWN:
	case EHOSTDOWN:
		return UNREACHABLE;
	case ECONNRESET:
	case EPIPE:
		return RESET;
	default:
		return OTHER;
	}
}

static __always_inline void count_failure(struct counters *counters, enum failure failure, int error)
{
	__sync_fetch_and_add(&counters->failures[failure], 1);
	counters->last_errno = error;
	counters->last_failure_ns = bpf_ktime_get_ns();
	wake(FAILED);
}

static __always_inline struct counters *count_attempt(const struct destination *key)
{
	struct counters *counters = counters_of(key);

	if (counters) {
		__sync_fetch_and_add(&counters->attempts, 1);
		counters->last_attempt_ns = bpf_ktime_get_ns();
	}
	return counters;
}

#endif
