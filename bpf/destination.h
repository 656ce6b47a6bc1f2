/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Builds destinations and decides which are worth counting. */
#ifndef STACKMEND_DESTINATION_H
#define STACKMEND_DESTINATION_H

#define V4_MAPPED bpf_htonl(0xffff)

#define V4_DESTINATION(ctx) { .daddr = { 0, 0, V4_MAPPED, (ctx)->user_ip4 } }
#define V6_DESTINATION(ctx) \
	{ .daddr = { (ctx)->user_ip6[0], (ctx)->user_ip6[1], (ctx)->user_ip6[2], (ctx)->user_ip6[3] } }

static __always_inline void set_v4(struct destination *key, __be32 daddr)
{
	key->daddr[2] = V4_MAPPED;
	key->daddr[3] = daddr;
}

/* The socket's peer; port 0 when it has none. */
static __always_inline void set_peer(struct destination *key, struct sock *sk, enum pointer pointer)
{
	key->dport = bpf_ntohs(MEMBER(sk, __sk_common.skc_dport, pointer));
	if (MEMBER(sk, __sk_common.skc_family, pointer) == AF_INET)
		set_v4(key, MEMBER(sk, __sk_common.skc_daddr, pointer));
	else if (HAS(sk, __sk_common.skc_v6_daddr))
		FIELD_INTO(&key->daddr, sk, __sk_common.skc_v6_daddr);
}

static __always_inline bool is_same_place(const struct destination *one, const struct destination *other)
{
	return one->daddr[0] == other->daddr[0] && one->daddr[1] == other->daddr[1] &&
	       one->daddr[2] == other->daddr[2] && one->daddr[3] == other->daddr[3] && one->dport == other->dport;
}

static __always_inline bool is_v4(const struct destination *key)
{
	return !key->daddr[0] && !key->daddr[1] && key->daddr[2] == V4_MAPPED;
}

/* A connect to the unspecified address reaches this machine, as one to the loopback address does. */
static __always_inline bool is_loopback(const struct destination *key)
{
	__u32 low = bpf_ntohl(key->daddr[3]);

	if (is_v4(key))
		return low >> 24 == 127 || low == 0;
	return !key->daddr[0] && !key->daddr[1] && !key->daddr[2] && low <= 1;
}

/* Link-local, multicast and broadcast: neighbours and discovery, never a dependency that a stack declares. */
static __always_inline bool is_noise(const struct destination *key)
{
	__u32 high = bpf_ntohl(key->daddr[0]), low = bpf_ntohl(key->daddr[3]);

	if (is_v4(key))
		return low >> 16 == 0xa9fe || low >> 28 == 0xe || low == 0xffffffff;
	return high >> 22 == 0xfe80 >> 6 || high >> 24 == 0xff;
}

/* A cgroup program may not follow the kernel's own pointers in its socket; read back as a number, it can be probed. */
static __always_inline struct sock *probeable(struct bpf_sock *checked)
{
	struct sock *sk = NULL;

	bpf_probe_read_kernel(&sk, sizeof(sk), &checked);
	return sk;
}

/* Eight characters, those after a NUL cleared: kernels before Linux 5.17 leave there what was in a longer name. */
static __always_inline __u64 until_nul(__u64 text)
{
	__u64 nul = (text - 0x0101010101010101) & ~text & 0x8080808080808080;

	return nul ? text & (((nul & -nul) >> 7) - 1) : text;
}

/* The process's own name: threads have names of their own, which say nothing and multiply the keys. False if it is the
 * agent. Processes' numbers are those of the kernel's own namespace, whatever namespace the caller is in. */
static __always_inline bool set_caller(struct destination *key)
{
	struct task_struct *task = TRUSTED_TASK, *process;
	__u64 *command = (__u64 *)key->command, *comm;

	if (task) {
		if ((__u32)task->tgid == SELF)
			return false;
		comm = (__u64 *)task->group_leader->comm;
		command[0] = until_nul(comm[0]);
		command[1] = command[0] >> 56 ? until_nul(comm[1]) : 0;
		return true;
	}
	task = (struct task_struct *)bpf_get_current_task();
	if ((__u32)FIELD(task, tgid) == SELF)
		return false;
	process = FIELD(task, group_leader);
	bpf_probe_read_kernel_str(&key->command, sizeof(key->command), ADDRESS(process, comm));
	return true;
}

static __always_inline __u32 netns_of(struct sock *sk)
{
	struct net *net = FIELD(sk, __sk_common.skc_net.net);

	return FIELD(net, ns.inum);
}

static __always_inline bool is_watched(struct sock *sk)
{
	return !knobs.netns || netns_of(sk) == knobs.netns;
}

static __always_inline bool may_be_wanted(const struct destination *key)
{
	if (!key->dport || is_noise(key))
		return false;
	return knobs.keep_loopback || !is_loopback(key);
}

static __always_inline bool is_wanted(struct sock *sk, const struct destination *key)
{
	return may_be_wanted(key) && is_watched(sk);
}

#endif
