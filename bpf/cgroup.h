/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What a cgroup's hooks tell of connect() and of datagrams that name their destination. */
#ifndef STACKMEND_CGROUP_H
#define STACKMEND_CGROUP_H

#define ALLOW 1 /* what a cgroup program returns to let the call go on */

static __always_inline int connect_called(struct bpf_sock_addr *ctx, struct destination *key)
{
	struct sock *sk = probeable(ctx->sk);
	bool is_tcp = ctx->protocol == IPPROTO_TCP;
	struct connection *connection;

	key->transport = ctx->protocol;
	key->dport = bpf_ntohs(ctx->user_port);
	if ((!is_tcp && ctx->protocol != IPPROTO_UDP) || !is_wanted(sk, key, calling_task()))
		return ALLOW;
	set_command(key, calling_task());
	if (is_tcp) {
		tcp_begin(sk, key, CALLED);
		return ALLOW;
	}
	connection = STORED(ctx->sk, BPF_SK_STORAGE_GET_F_CREATE);
	if (connection)
		udp_connected(connection, key, sk);
	else
		lose(LOST_MAP_FULL);
	return ALLOW;
}

static __always_inline int datagram_addressed(struct bpf_sock_addr *ctx, struct destination *key)
{
	struct connection *connection = STORED(ctx->sk, 0);
	struct sock *sk = probeable(ctx->sk);

	key->transport = IPPROTO_UDP;
	key->dport = bpf_ntohs(ctx->user_port);
	if (!udp_addressed(connection, key) || !is_wanted(sk, key, calling_task()) || is_reply(sk, key))
		return ALLOW;
	set_command(key, calling_task());
	count_attempt(key);
	return ALLOW;
}

#endif
