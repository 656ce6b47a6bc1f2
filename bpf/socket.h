/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Where the attempt of a socket is kept: in the socket's own storage, which kprobes cannot reach, or by its address. */
#ifndef STACKMEND_SOCKET_H
#define STACKMEND_SOCKET_H

static __always_inline struct connection *connection_of(struct sock *sk)
{
	__u64 address = (__u64)sk;

	return knobs.by_address ? bpf_map_lookup_elem(MAP(attempts), &address) : STORED(sk, 0);
}

static __always_inline struct connection *connection_made(struct sock *sk)
{
	__u64 address = (__u64)sk;
	struct connection nothing = {};

	if (!knobs.by_address)
		return STORED(sk, BPF_SK_STORAGE_GET_F_CREATE);
	bpf_map_update_elem(MAP(attempts), &address, &nothing, BPF_ANY);
	return bpf_map_lookup_elem(MAP(attempts), &address);
}

/* The kernel frees a socket's own storage; of addresses only those with a present are kept. */
static __always_inline void forget_settled(struct sock *sk, const struct connection *connection)
{
	__u64 address = (__u64)sk;

	if (knobs.by_address && (connection->phase == IDLE || connection->phase == LOST))
		bpf_map_delete_elem(MAP(attempts), &address);
}

#endif
