/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What a cgroup's hooks tell of connect(), of datagrams that name their destination, and of sockets' ends. */
#ifndef STACKMEND_CGROUP_H
#define STACKMEND_CGROUP_H

#define ALLOW 1 /* what a cgroup program returns to let the call go on */

static __always_inline int connect_called(struct bpf_sock_addr *ctx, struct destination *key)
{
	struct sock *sk = probeable(ctx->sk);

	key->transport = ctx->protocol;
	key->dport = bpf_ntohs(ctx->user_port);
	if ((ctx->protocol != IPPROTO_TCP && ctx->protocol != IPPROTO_UDP) || !is_wanted(sk, key))
		return ALLOW;
	set_command(key);
	if (ctx->protocol == IPPROTO_TCP)
		tcp_begin(sk, key, CALLED);
	else
		talk_begun(sk, key);
	return ALLOW;
}

/* To the peer of a connected socket: by name, or because an IPv6 socket's peer is IPv4, which the kernel then names. */
static __always_inline bool is_talk(struct sock *sk, const struct destination *key)
{
	struct destination peer = {};

	if (bpf_ntohs(FIELD(sk, __sk_common.skc_dport)) != key->dport)
		return false;
	set_peer(&peer, sk);
	return is_same_place(&peer, key);
}

static __always_inline int datagram_addressed(struct bpf_sock_addr *ctx, struct destination *key)
{
	struct sock *sk = probeable(ctx->sk);

	key->transport = IPPROTO_UDP;
	key->dport = bpf_ntohs(ctx->user_port);
	if (!is_wanted(sk, key) || is_talk(sk, key) || is_reply(sk, key))
		return ALLOW;
	set_command(key);
	count_attempt(key);
	return ALLOW;
}

static __always_inline int released(struct bpf_sock *ctx)
{
	if (ctx->protocol == IPPROTO_UDP)
		talk_ended(probeable(ctx));
	return ALLOW;
}

#endif
