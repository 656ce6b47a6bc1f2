// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* The kprobe plan for kernels without BTF: compiled by BCC where it runs. The loader puts knobs and the maps' descriptors
 * before it; what the maps are for is told in flows.bpf.c. */
#include "bcc.h"
#include "attempt.h"
#include "destination.h"
#include "account.h"
#include "socket.h"
#include "connection.h"
#include "datagram.h"
#include "call.h"

int inet_sock_set_state(struct bpf_raw_tracepoint_args *ctx)
{
	struct sock *sk = (struct sock *)ctx->args[0];

	if (tells_of_attempts(sk, ctx->args[1], ctx->args[2]) && FIELD(sk, sk_protocol) == IPPROTO_TCP)
		state_changed(sk, ctx->args[1], ctx->args[2]);
	return 0;
}

int tcp_destroy_sock(struct bpf_raw_tracepoint_args *ctx)
{
	tcp_destroyed((struct sock *)ctx->args[0]);
	return 0;
}

int inet_sk_error_report(struct bpf_raw_tracepoint_args *ctx)
{
	struct sock *sk = (struct sock *)ctx->args[0];
	int protocol = FIELD(sk, sk_protocol);

	if (protocol == IPPROTO_TCP)
		tcp_error(sk);
	else if (protocol == IPPROTO_UDP)
		peer_error(sk);
	return 0;
}

int tcp_connect_kprobe(struct pt_regs *ctx)
{
	return begin_from_socket((struct sock *)PT_REGS_PARM1(ctx), NUMBER);
}

int tcp_v4_connect_entry(struct pt_regs *ctx)
{
	return connect_begun((struct sock *)PT_REGS_PARM1(ctx), (void *)PT_REGS_PARM2(ctx));
}

int tcp_v4_connect_return(struct pt_regs *ctx)
{
	return connect_ended(PT_REGS_RC(ctx), V4);
}

int tcp_v6_connect_entry(struct pt_regs *ctx)
{
	return connect_begun((struct sock *)PT_REGS_PARM1(ctx), (void *)PT_REGS_PARM2(ctx));
}

int tcp_v6_connect_return(struct pt_regs *ctx)
{
	return connect_ended(PT_REGS_RC(ctx), V6);
}

int udp_sendmsg_kprobe(struct pt_regs *ctx)
{
	struct sock *sk = (struct sock *)PT_REGS_PARM1(ctx);

	return datagram_sent(sk, (struct msghdr *)PT_REGS_PARM2(ctx), V4, NUMBER);
}

int udpv6_sendmsg_kprobe(struct pt_regs *ctx)
{
	struct sock *sk = (struct sock *)PT_REGS_PARM1(ctx);

	return datagram_sent(sk, (struct msghdr *)PT_REGS_PARM2(ctx), V6, NUMBER);
}

int ip4_datagram_connect_kprobe(struct pt_regs *ctx)
{
	return peer_named((struct sock *)PT_REGS_PARM1(ctx), (void *)PT_REGS_PARM2(ctx), V4);
}

int ip6_datagram_connect_kprobe(struct pt_regs *ctx)
{
	return peer_named((struct sock *)PT_REGS_PARM1(ctx), (void *)PT_REGS_PARM2(ctx), V6);
}

int learn_self(struct bpf_raw_tracepoint_args *ctx) /* never attached, but run once by the agent */
{
	__u32 only = 0, tgid = bpf_get_current_pid_tgid() >> 32;

	bpf_map_update_elem(MAP(self), &only, &tgid, BPF_ANY);
	return 0;
}
