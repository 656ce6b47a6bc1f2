/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Where the attempt of a TCP socket is kept: by the socket's address, which kprobes know as well as other programs. The
 * socket's own storage would cost several times as much, since the kernel allocates it anew for each. */
#ifndef STACKMEND_SOCKET_H
#define STACKMEND_SOCKET_H

#ifdef PLACE_BITS
/* A verifier forbids to reckon with pointers, but lets one subtract from their lower halves. */
static __always_inline struct place *place_of(const struct sock *sk)
{
	__u64 half;

	asm volatile("r0 = %1; w0 -= 0; %0 = r0" : "=r"(half) : "r"(sk) : "r0");
	return &places[half * 0x9e3779b1 >> 16 & ((1 << PLACE_BITS) - 1)];
}

static __always_inline void note_call(struct sock *sk)
{
	place_of(sk)->called = (__u64)sk;
}

/* Whether the latest call here is this socket's; it is none any more. */
static __always_inline bool take_call(struct sock *sk)
{
	struct place *place = place_of(sk);

	if (place->called != (__u64)sk)
		return false;
	place->called = 0;
	return true;
}
#else
#define note_call(sk) ((void)0)
#define take_call(sk) false
#endif

static __always_inline struct connection *connection_of(struct sock *sk)
{
	__u64 address = (__u64)sk;

	return bpf_map_lookup_elem(MAP(attempts), &address);
}

/* The same, unless it is over. */
static __always_inline struct connection *unsettled_connection_of(struct sock *sk)
{
	struct connection *connection = MAY_BE_UNSETTLED(sk) ? connection_of(sk) : NULL;

	return connection && connection->phase != IDLE ? connection : NULL;
}

/* What is settled stays, for the next socket at the same address: the kernel uses the memory of sockets again soon, and
 * to take an entry out and put it in anew costs as much as all else. Where many are followed, it is taken out. */
static __always_inline void forget_settled(struct sock *sk, struct connection *connection)
{
	__u64 address = (__u64)sk;

	if (connection->phase != IDLE && connection->phase != LOST)
		return;
	connection->phase = IDLE;
	COUNT_UNSETTLED(sk, -1);
	if (FOLLOWED > knobs.kept && !bpf_map_delete_elem(MAP(attempts), &address))
		COUNT_FOLLOWED(-1);
}

#endif
