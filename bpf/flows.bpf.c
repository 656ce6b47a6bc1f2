// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* Outbound dependencies, aggregated in the kernel by destination and program. */
#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <linux/errno.h>
#include <linux/in.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "flows.h"
#include "kernel.h"

#define ALLOW 1 /* what a cgroup program returns to let the call go on */

const volatile struct knobs knobs;
__u32 self_tgid; /* the agent, whose own traffic is no dependency; filled in by learn_self() */

/* CALLED: a cgroup hook saw connect(). SENT: the SYN left. PEER: a connected UDP socket. LOST: the table was full. */
enum phase { IDLE, CALLED, SENT, OPEN, PEER, LOST };

struct connection {
	struct destination key;
	__u32 phase;
	__u32 addressed; /* the datagram being sent names its own destination */
	__u32 error; /* that the caller was told of while the attempt went on */
	__u64 begun_ns;
};

/* Inserted by the first attempt to a destination. Deleted only by the reader, when idle; bounded by its size, which the
 * loader sets, and what does not fit is counted in losses. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct destination);
	__type(value, struct counters);
} destinations SEC(".maps");

/* Inserted by connect(). The kernel frees an entry together with its socket, so it cannot leak. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct connection);
} connections SEC(".maps");

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
#include "connection.h"

#include "datagram.h"

static __always_inline int connect_called(struct bpf_sock_addr *ctx, struct destination *key)
{
	struct sock *sk = probeable(ctx->sk);
	struct connection *connection;

	key->transport = ctx->protocol;
	key->dport = bpf_ntohs(ctx->user_port);
	set_command(key, current_task());
	if ((key->transport != IPPROTO_TCP && key->transport != IPPROTO_UDP) || !is_wanted(sk, key, current_task()))
		return ALLOW;
	connection = bpf_sk_storage_get(&connections, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!connection)
		lose(LOST_MAP_FULL);
	else if (key->transport == IPPROTO_TCP)
		tcp_begin(connection, key, CALLED);
	else
		udp_connected(connection, key, sk);
	return ALLOW;
}

static __always_inline int datagram_addressed(struct bpf_sock_addr *ctx, struct destination *key)
{
	struct connection *connection = bpf_sk_storage_get(&connections, ctx->sk, NULL, 0);
	struct sock *sk = probeable(ctx->sk);

	key->transport = IPPROTO_UDP;
	key->dport = bpf_ntohs(ctx->user_port);
	set_command(key, current_task());
	if (udp_addressed(connection, key) && is_wanted(sk, key, current_task()) && !is_reply(sk, key))
		count_attempt(key);
	return ALLOW;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(inet_sock_set_state, struct sock *sk, int oldstate, int newstate)
{
	if (sk->sk_protocol == IPPROTO_TCP)
		state_changed(sk, oldstate, newstate);
	return 0;
}

SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(tcp_destroy_sock, struct sock *sk)
{
	tcp_destroyed(bpf_sk_storage_get(&connections, sk, NULL, 0));
	return 0;
}

SEC("tp_btf/sock_send_length") /* Linux 6.3 */
int BPF_PROG(sock_send_length, struct sock *sk, int sent)
{
	if (sk->sk_protocol == IPPROTO_UDP)
		udp_sent(bpf_sk_storage_get(&connections, sk, NULL, 0), sent);
	return 0;
}

SEC("tp_btf/inet_sk_error_report") /* Linux 5.14 */
int BPF_PROG(inet_sk_error_report, struct sock *sk)
{
	struct connection *connection = bpf_sk_storage_get(&connections, sk, NULL, 0);

	if (sk->sk_protocol == IPPROTO_UDP)
		udp_error(connection, sk->sk_err);
	else if (sk->sk_protocol == IPPROTO_TCP)
		tcp_error(connection, sk);
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

SEC("raw_tp") /* never attached: the loader runs it once in its own process, whose number here no namespace changes */
int learn_self(void *ctx)
{
	self_tgid = bpf_get_current_pid_tgid() >> 32;
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
