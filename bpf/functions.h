/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The hooks on the kernel's own functions: by trampolines (Linux 5.5; arm64 6.0) and, where there are none, by kprobes. */
#ifndef STACKMEND_FUNCTIONS_H
#define STACKMEND_FUNCTIONS_H

SEC("fexit/tcp_v4_connect")
int BPF_PROG(tcp_v4_connect, struct sock *sk, struct sockaddr *to, int length, int error)
{
	return tcp_connected(sk, to, error, V4);
}

SEC("fexit/tcp_v6_connect")
int BPF_PROG(tcp_v6_connect, struct sock *sk, struct sockaddr *to, int length, int error)
{
	return tcp_connected(sk, to, error, V6);
}

SEC("fentry/tcp_connect")
int BPF_PROG(tcp_connect, struct sock *sk)
{
	return begin_from_socket(sk, TYPED);
}

SEC("fentry/udp_sendmsg")
int BPF_PROG(udp_sendmsg, struct sock *sk, struct msghdr *msg)
{
	return datagram_sent(sk, msg, V4, TYPED);
}

SEC("fentry/udpv6_sendmsg")
int BPF_PROG(udpv6_sendmsg, struct sock *sk, struct msghdr *msg)
{
	return datagram_sent(sk, msg, V6, TYPED);
}

SEC("fentry/__ip4_datagram_connect")
int BPF_PROG(ip4_datagram_connect, struct sock *sk, struct sockaddr *to)
{
	return peer_named(sk, to, V4);
}

SEC("fentry/__ip6_datagram_connect")
int BPF_PROG(ip6_datagram_connect, struct sock *sk, struct sockaddr *to)
{
	return peer_named(sk, to, V6);
}

SEC("kprobe/tcp_v4_connect")
int BPF_KPROBE(tcp_v4_connect_entry, struct sock *sk, struct sockaddr *to)
{
	return connect_begun(sk, to);
}

SEC("kretprobe/tcp_v4_connect")
int BPF_KRETPROBE(tcp_v4_connect_return, int error)
{
	return connect_ended(error, V4);
}

SEC("kprobe/tcp_v6_connect")
int BPF_KPROBE(tcp_v6_connect_entry, struct sock *sk, struct sockaddr *to)
{
	return connect_begun(sk, to);
}

SEC("kretprobe/tcp_v6_connect")
int BPF_KRETPROBE(tcp_v6_connect_return, int error)
{
	return connect_ended(error, V6);
}

SEC("kprobe/tcp_connect")
int BPF_KPROBE(tcp_connect_kprobe, struct sock *sk)
{
	return begin_from_socket(sk, NUMBER);
}

SEC("kprobe/udp_sendmsg")
int BPF_KPROBE(udp_sendmsg_kprobe, struct sock *sk, struct msghdr *msg)
{
	return datagram_sent(sk, msg, V4, NUMBER);
}

SEC("kprobe/udpv6_sendmsg")
int BPF_KPROBE(udpv6_sendmsg_kprobe, struct sock *sk, struct msghdr *msg)
{
	return datagram_sent(sk, msg, V6, NUMBER);
}

SEC("kprobe/__ip4_datagram_connect")
int BPF_KPROBE(ip4_datagram_connect_kprobe, struct sock *sk, struct sockaddr *to)
{
	return peer_named(sk, to, V4);
}

SEC("kprobe/__ip6_datagram_connect")
int BPF_KPROBE(ip6_datagram_connect_kprobe, struct sock *sk, struct sockaddr *to)
{
	return peer_named(sk, to, V6);
}

#endif
