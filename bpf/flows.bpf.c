// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* Outbound dependencies, aggregated in the kernel by destination and program. */
#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <linux/errno.h>
#include <linux/in.h>
#include <linux/ptrace.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "flows.h"
#include "attempt.h"
#include "kernel.h"

const volatile struct knobs knobs;
__u32 self_tgid; /* the agent, whose own traffic is no dependency; filled in by learn_self() */
__s64 followed; /* entries of attempts */
struct place places[1 << PLACE_BITS];

/* Destinations by their digests. Inserted by the first attempt. Deleted only by the reader, when idle; bounded by its size, which the
 * loader sets, and what does not fit is counted in losses. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct entry);
} destinations SEC(".maps");

/* What TCP sockets are at, by the socket's address. Inserted by connect(), and once more than knobs.kept are followed,
 * deleted when the attempt has failed, its connection has ended, or the socket is destroyed; bounded, and what does not
 * fit is counted in losses. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, struct connection);
} attempts SEC(".maps");

/* Connected UDP sockets, by the socket's address. Inserted by connect(), deleted when the socket is released; bounded,
 * and what does not fit is counted in losses. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct talk);
} talks SEC(".maps");

/* Their destinations alone, for kprobes, which see the datagrams. Inserted by connect(); the kernel drops the oldest for
 * new ones. What is lost by that is an ICMP error, and what is stale is told by the socket itself. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct destination);
} peers SEC(".maps");

/* Calls of connect() that have not returned yet, for kprobes, by thread. Inserted by a thread's first, whose entry its next
 * ones use; the kernel drops the oldest, which are no calls any more. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct call);
} calls SEC(".maps");

/* First sightings and failures. Consumed by the reader; what finds it full is counted in losses, not in vain: the table
 * holds it all the same. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
} events SEC(".maps");

/* One counter per enum loss; fixed size. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LOSSES);
	__type(key, __u32);
	__type(value, __u64);
} losses SEC(".maps");

#include "destination.h"
#include "account.h"
#include "socket.h"
#include "connection.h"
#include "datagram.h"
#include "talk.h"
#include "cgroup.h"
#include "call.h"

/* Apart, so that the program for what tells nothing is short. */
static __noinline int state_changed_tellingly(unsigned long long *ctx)
{
	struct sock *sk = (struct sock *)ctx[0];

	if (sk->sk_protocol == IPPROTO_TCP)
		state_changed(sk, ctx[1], ctx[2]);
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int inet_sock_set_state(unsigned long long *ctx)
{
	return tells_of_attempts((struct sock *)ctx[0], ctx[1], ctx[2]) ? state_changed_tellingly(ctx) : 0;
}

SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(tcp_destroy_sock, struct sock *sk)
{
	tcp_destroyed(sk);
	return 0;
}

SEC("tp_btf/inet_sk_error_report") /* Linux 5.14 */
int BPF_PROG(inet_sk_error_report, struct sock *sk)
{
	if (sk->sk_protocol == IPPROTO_TCP)
		tcp_error(sk);
	else if (sk->sk_protocol == IPPROTO_UDP && knobs.peers_by_address)
		peer_error(sk);
	else if (sk->sk_protocol == IPPROTO_UDP)
		talk_error(sk);
	return 0;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	struct destination key = V4_DESTINATION(ctx);
	return connect_called(ctx, &key);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	struct destination key = V6_DESTINATION(ctx);
	return connect_called(ctx, &key);
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	struct destination key = V4_DESTINATION(ctx);
	return datagram_addressed(ctx, &key);
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	struct destination key = V6_DESTINATION(ctx);
	return datagram_addressed(ctx, &key);
}

SEC("cgroup/sock_release") /* Linux 5.9 */
int sock_release(struct bpf_sock *ctx)
{
	return released(ctx);
}

#include "functions.h"

SEC("raw_tp") /* never attached: the loader runs it once in its own process, whose number here no namespace changes */
int learn_self(void *ctx)
{
	self_tgid = bpf_get_current_pid_tgid() >> 32;
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
