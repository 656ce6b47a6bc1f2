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

#define SPREAD 0x9e3779b97f4a7c15 /* what it is multiplied by can be had back */

/* No two destinations that differ in one word share a digest, and of others next to none. */
static __always_inline __u64 digest_of(const struct destination *key)
{
	const __u64 *words = (const __u64 *)key;
	__u64 digest = words[0] * SPREAD + words[1];

	digest = (digest ^ digest >> 32) * SPREAD + words[2];
	digest = (digest ^ digest >> 32) * SPREAD + words[3];
	return (digest ^ digest >> 32) * SPREAD + words[4];
}

static __always_inline bool is_same_destination(const struct destination *one, const struct destination *other)
{
	const __u64 *words = (const __u64 *)one, *others = (const __u64 *)other;
	__u64 differ = 0;

	for (unsigned int i = 0; i < sizeof(*one) / sizeof(*words); i++)
		differ |= words[i] ^ others[i];
	return !differ;
}

/* Of a destination that was counted before, unless the reader has made room meanwhile. */
static __always_inline struct counters *known_counters(__u64 digest)
{
	struct entry *entry = bpf_map_lookup_elem(MAP(destinations), &digest);

	return entry ? &entry->counters : NULL;
}

static __always_inline struct entry *entered(const struct destination *key, __u64 digest)
{
	struct entry entry = { .destination = *key };
	bool created = !bpf_map_update_elem(MAP(destinations), &digest, &entry, BPF_NOEXIST);
	struct entry *there = bpf_map_lookup_elem(MAP(destinations), &digest);

	if (there && created) {
		there->counters.first_ns = bpf_ktime_get_ns();
		wake(FIRST_SIGHTING);
	}
	return there;
}

static __always_inline struct counters *counters_of(const struct destination *key, __u64 digest)
{
	struct entry *entry = bpf_map_lookup_elem(MAP(destinations), &digest);

	if (!entry)
		entry = entered(key, digest);
	if (entry && is_same_destination(&entry->destination, key))
		return &entry->counters;
	lose(LOST_MAP_FULL); /* or its place is taken, once in some hundred thousand million full tables */
	return NULL;
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

static __always_inline struct counters *count_attempt(const struct destination *key, __u64 digest)
{
	struct counters *counters = counters_of(key, digest);

	if (counters) {
		__sync_fetch_and_add(&counters->attempts, 1);
		counters->last_attempt_ns = bpf_ktime_get_ns();
	}
	return counters;
}

#endif
