/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Where the attempt of a TCP socket is kept: by the socket's address, which kprobes know as well as other programs. The
 * socket's own storage would cost several times as much, since the kernel allocates it anew for each. */
#ifndef STACKMEND_SOCKET_H
#define STACKMEND_SOCKET_H

static __always_inline struct connection *connection_of(struct sock *sk)
{
	__u64 address = (__u64)sk;

	return bpf_map_lookup_elem(MAP(attempts), &address);
}

/* What is settled stays, for the next socket at the same address: the kernel uses the memory of sockets again soon, and
 * to take an entry out and put it in anew costs as much as all else. Where many are followed, it is taken out. */
static __always_inline void forget_settled(struct sock *sk, struct connection *connection)
{
	__u64 address = (__u64)sk;

	if (connection->phase != IDLE && connection->phase != LOST)
		return;
	connection->phase = IDLE;
	if (FOLLOWED > knobs.kept && !bpf_map_delete_elem(MAP(attempts), &address))
		COUNT_FOLLOWED(-1);
}

#endif
