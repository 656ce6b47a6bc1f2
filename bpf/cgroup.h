/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What a cgroup's hooks tell of connect(), of datagrams that name their destination, and of sockets' ends. */
#ifndef STACKMEND_CGROUP_H
#define STACKMEND_CGROUP_H

#define ALLOW 1 /* what a cgroup program returns to let the call go on */

/* As good as its address. Kernels that trust tasks, which is later, have maps take the pointer that they checked as a key, too. */
static __always_inline struct sock *named(struct bpf_sock *checked)
{
	return knobs.trusted_task ? (struct sock *)checked : probeable(checked);
}

static __always_inline int connect_called(struct bpf_sock_addr *ctx, struct destination *key)
{
	key->transport = ctx->protocol;
	key->dport = bpf_ntohs(ctx->user_port);
	if ((ctx->protocol != IPPROTO_TCP && ctx->protocol != IPPROTO_UDP) || !may_be_wanted(key))
		return ALLOW;
	if ((knobs.netns && !is_watched(probeable(ctx->sk))) || !set_caller(key))
		return ALLOW;
	if (ctx->protocol == IPPROTO_TCP)
		tcp_begin(named(ctx->sk), key, CALLED);
	else
		talk_begun(probeable(ctx->sk), key);
	return ALLOW;
}

/* To the peer of a connected socket: by name, or because an IPv6 socket's peer is IPv4, which the kernel then names. */
static __always_inline bool is_talk(struct bpf_sock *ctx, const struct destination *key)
{
	struct destination peer = {};

	if (bpf_ntohs(*(__be16 *)&ctx->dst_port) != key->dport)
		return false;
	set_peer(&peer, probeable(ctx), NUMBER);
	return is_same_place(&peer, key);
}

/* By what the kernel's own socket tells, and a probe of that costs half as much as all else. */
static __always_inline bool is_counted(struct sock *sk, const struct destination *key)
{
	return is_watched(sk) && !is_reply(sk, key);
}

static __always_inline int datagram_addressed(struct bpf_sock_addr *ctx, struct destination *key)
{
	key->transport = IPPROTO_UDP;
	key->dport = bpf_ntohs(ctx->user_port);
	if (!may_be_wanted(key) || is_talk(ctx->sk, key))
		return ALLOW;
	if ((knobs.netns || may_be_reply(key)) && !is_counted(probeable(ctx->sk), key))
		return ALLOW;
	if (set_caller(key))
		count_attempt(key, digest_of(key));
	return ALLOW;
}

static __always_inline int released(struct bpf_sock *ctx)
{
	if (ctx->protocol == IPPROTO_UDP)
		talk_ended(probeable(ctx));
	return ALLOW;
}

#endif
