/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Connected UDP sockets, known by their connect() and their release alone, so that no datagram costs anything. One is an
 * attempt if it was used, and open while it lasts; the reader takes in those that last. */
#ifndef STACKMEND_TALK_H
#define STACKMEND_TALK_H

static __always_inline struct talk *talk_of(struct sock *sk)
{
	__u64 address = (__u64)sk;

	return bpf_map_lookup_elem(MAP(talks), &address);
}

/* A socket notes when it handed over its first datagram, or where the latest came from if its owner asked for their times. */
static __always_inline bool has_received(struct sock *sk)
{
	return FIELD(sk, sk_stamp) != SK_DEFAULT_STAMP || FIELD(sk, sk_rx_dst);
}

/* The C library connects sockets to sort addresses, and closes them or connects them elsewhere at once. That nothing was
 * sent the kernel does not tell: what was answered, refused or lasted was used, and of the others it is a guess. */
static __always_inline void talk_ended(struct sock *sk)
{
	struct talk *talk = talk_of(sk);
	__u64 address = (__u64)sk;

	if (!talk)
		return;
	if (!talk->counted && (has_received(sk) || bpf_ktime_get_ns() - talk->begun_ns >= knobs.talk_ns))
		count_attempt(&talk->key, digest_of(&talk->key));
	bpf_map_delete_elem(MAP(talks), &address);
}

/* Of the kernel's own sockets nobody tells the end. */
static __always_inline void talk_begun(struct sock *sk, const struct destination *key)
{
	struct talk begun = { .key = *key, .begun_ns = bpf_ktime_get_ns() };
	__u64 address = (__u64)sk;

	talk_ended(sk);
	if (is_reply(sk, key))
		return;
	if (knobs.count_udp_connects || IS_KERNELS(sk))
		count_attempt(key, digest_of(key));
	else if (bpf_map_update_elem(MAP(talks), &address, &begun, BPF_ANY))
		lose(LOST_MAP_FULL);
}

/* What ICMP said of a datagram, perhaps before the send has returned; sockets that are not connected never hear of it. */
static __always_inline void talk_error(struct sock *sk)
{
	struct talk *talk = talk_of(sk);
	int error = FIELD(sk, sk_err);
	struct counters *counters;
	__u64 digest;

	if (!talk || !error)
		return;
	digest = digest_of(&talk->key);
	counters = talk->counted ? counters_of(&talk->key, digest) : count_attempt(&talk->key, digest);
	talk->counted = 1;
	if (counters)
		count_failure(counters, failure_of(error), error);
}

#endif
