/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What the arguments of the kernel's own functions tell, where kprobes show them. Socket addresses are copies in the
 * kernel by then. */
#ifndef STACKMEND_CALL_H
#define STACKMEND_CALL_H

enum version { V4, V6 };

/* The head that struct sockaddr_in and struct sockaddr_in6 have in common, and what follows in the latter. */
struct name {
	__u16 family;
	__be16 port;
	__be32 v4;
	__be32 v6[4];
};

static __always_inline void set_name(struct destination *key, const struct name *name, enum version version)
{
	key->dport = bpf_ntohs(name->port);
	if (version == V6)
		__builtin_memcpy(key->daddr, name->v6, sizeof(key->daddr));
	else
		set_v4(key, name->v4);
}

/* tcp_v4_connect() and tcp_v6_connect() have returned; the latter has the former connect to IPv4-mapped addresses. */
static __always_inline int tcp_connected(struct sock *sk, const void *address, int error, enum version version)
{
	struct destination key = { .transport = IPPROTO_TCP };
	struct name name = {};

	if (!error || bpf_probe_read_kernel(&name, sizeof(name), address))
		return 0;
	if (name.family != (version == V6 ? AF_INET6 : AF_INET))
		return 0;
	set_name(&key, &name, version);
	if (version == V6 && is_v4(&key) && !IS_IPV6_ONLY(sk))
		return 0;
	if (set_caller(&key))
		connect_failed(sk, &key, -error);
	return 0;
}

static __always_inline int connect_begun(struct sock *sk, void *to)
{
	struct call call = { .sk = sk, .to = to }, *former;
	__u64 thread = bpf_get_current_pid_tgid();

	former = bpf_map_lookup_elem(MAP(calls), &thread);
	if (former)
		*former = call;
	else
		bpf_map_update_elem(MAP(calls), &thread, &call, BPF_ANY);
	return 0;
}

static __always_inline int connect_ended(int error, enum version version)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct call *call = bpf_map_lookup_elem(MAP(calls), &thread);

	if (!call || !call->sk)
		return 0;
	if (error)
		tcp_connected(call->sk, call->to, error, version);
	call->sk = NULL;
	return 0;
}

/* udpv6_sendmsg() has udp_sendmsg() send to IPv4 addresses, mapped or not, and names them. A socket that is corked, or
 * was told of more to come, goes on with the datagram that it began. */
static __always_inline int datagram_sent(struct sock *sk, struct msghdr *msg, enum version version,
					 enum pointer pointer)
{
	struct destination key = { .transport = IPPROTO_UDP };
	void *address = MEMBER(msg, msg_name, pointer);
	struct name name = {};

	if (address)
		bpf_probe_read_kernel(&name, sizeof(name), address);
	if (name.family == (version == V6 ? AF_INET : AF_INET6))
		return 0;
	if (name.family || (address && version == V4))
		set_name(&key, &name, version);
	else
		set_peer(&key, sk, pointer);
	if ((version == V6 && is_v4(&key)) || !is_wanted(sk, &key) || is_reply(sk, &key))
		return 0;
	if (FIELD((struct udp_sock *)sk, pending) || !set_caller(&key))
		return 0;
	count_attempt(&key, digest_of(&key));
	return 0;
}

/* connect() of a datagram socket. What ICMP later says of its datagrams comes when the program is not at hand. */
static __always_inline int peer_named(struct sock *sk, const void *address, enum version version)
{
	struct destination key = { .transport = IPPROTO_UDP };
	__u64 place = (__u64)sk;
	struct name name = {};

	if (FIELD(sk, sk_protocol) != IPPROTO_UDP || bpf_probe_read_kernel(&name, sizeof(name), address))
		return 0;
	if (name.family != (version == V6 ? AF_INET6 : AF_INET))
		return 0;
	set_name(&key, &name, version);
	if ((version == V6 && is_v4(&key)) || !is_wanted(sk, &key) || is_reply(sk, &key) || !set_caller(&key))
		return 0;
	bpf_map_update_elem(MAP(peers), &place, &key, BPF_ANY);
	return 0;
}

static __always_inline void peer_error(struct sock *sk)
{
	struct destination *peer, now = { .transport = IPPROTO_UDP };
	struct counters *counters;
	__u64 place = (__u64)sk;
	int error = FIELD(sk, sk_err);

	peer = bpf_map_lookup_elem(MAP(peers), &place);
	if (!peer || !error)
		return;
	set_peer(&now, sk, TYPED);
	if (!is_same_place(peer, &now))
		return; /* of another socket that was at this address before */
	counters = counters_of(peer, digest_of(peer));
	if (counters)
		count_failure(counters, failure_of(error), error);
}

#endif
