// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* The first bytes of new connections that this machine makes: what the client says, or the server if it begins. Nothing
 * is kept of a connection after its first data packet, and a destination is looked at once in a while only. */
#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "greeting.h"
#include "kernel.h"

#define ALLOW 1 /* what a cgroup program returns to let the packet go on */
#define IPV6_HEADER_BYTES 40

const volatile struct greeting_knobs greeting_knobs;

/* Inserted by a SYN to a destination that was not looked at lately, deleted by the first data packet. The kernel frees an
 * entry together with its socket, so it cannot leak. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct place);
} awaited SEC(".maps");

/* When a destination was looked at. Never deleted from: the least used give way. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct place);
	__type(value, __u64);
} looked SEC(".maps");

/* Consumed by the reader; what finds it full is looked at with the next connection. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} greetings SEC(".maps");

static __always_inline bool is_looked_at(const struct place *place)
{
	__u64 *then_ns = bpf_map_lookup_elem(&looked, place);

	return then_ns && bpf_ktime_get_ns() - *then_ns < greeting_knobs.again_ns;
}

/* A cgroup program may not follow the kernel's own pointers in its socket; read back as a number, it can be probed. */
static __always_inline struct sock *probeable(struct bpf_sock *checked)
{
	struct sock *sk = NULL;

	bpf_probe_read_kernel(&sk, sizeof(sk), &checked);
	return sk;
}

static __always_inline void set_place(struct place *place, struct sock *sk)
{
	place->dport = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	if (BPF_CORE_READ(sk, __sk_common.skc_family) == AF_INET6) {
		BPF_CORE_READ_INTO(&place->daddr, sk, __sk_common.skc_v6_daddr);
	} else {
		place->daddr[2] = bpf_htonl(0xffff);
		place->daddr[3] = BPF_CORE_READ(sk, __sk_common.skc_daddr);
	}
}

static __always_inline void connection_begun(struct bpf_sock *checked)
{
	struct sock *sk = probeable(checked);
	struct place place = {}, *entry;

	if (greeting_knobs.netns && BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum) != greeting_knobs.netns)
		return;
	set_place(&place, sk);
	if (is_looked_at(&place))
		return;
	entry = bpf_sk_storage_get(&awaited, checked, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (entry)
		*entry = place;
}

/* Where a TCP segment's data begins, counted from the IP header; 0 for what cannot be read. */
static __always_inline __u32 data_offset(struct __sk_buff *skb)
{
	__u32 transport = IPV6_HEADER_BYTES;
	__u8 first, offset;

	if (bpf_skb_load_bytes(skb, 0, &first, 1))
		return 0;
	if (first >> 4 == 4)
		transport = (first & 0xf) * 4;
	if (bpf_skb_load_bytes(skb, transport + 12, &offset, 1))
		return 0;
	return transport + (offset >> 4) * 4;
}

static __always_inline void look(struct __sk_buff *skb, struct bpf_sock *sk, const struct place *place, __u8 sender)
{
	__u32 at = data_offset(skb), length = skb->len - at;
	__u64 now_ns = bpf_ktime_get_ns();
	struct greeting *greeting;

	if (!at || skb->len <= at)
		return;
	greeting = bpf_ringbuf_reserve(&greetings, sizeof(*greeting), 0);
	if (!greeting)
		return;
	greeting->place = *place;
	greeting->sender = sender;
	if (length > GREETING_BYTES)
		length = GREETING_BYTES;
	greeting->length = length;
	length = (length - 1) & (GREETING_BYTES - 1); /* the verifier has to see the bound */
	bpf_map_update_elem(&looked, place, &now_ns, BPF_ANY);
	bpf_sk_storage_delete(&awaited, sk);
	if (bpf_skb_load_bytes(skb, at, greeting->bytes, length + 1))
		bpf_ringbuf_discard(greeting, 0);
	else
		bpf_ringbuf_submit(greeting, 0);
}

static __always_inline int packet_passes(struct __sk_buff *skb, __u8 sender)
{
	struct bpf_sock *sk = skb->sk;
	struct place *place;

	sk = sk ? bpf_sk_fullsock(sk) : NULL;
	if (!sk || sk->protocol != IPPROTO_TCP)
		return ALLOW;
	if (sk->state == BPF_TCP_SYN_SENT) {
		connection_begun(sk);
		return ALLOW;
	}
	place = bpf_sk_storage_get(&awaited, sk, NULL, 0);
	if (place)
		look(skb, sk, place, sender);
	return ALLOW;
}

SEC("cgroup_skb/egress")
int packet_sent(struct __sk_buff *skb)
{
	return packet_passes(skb, BY_CLIENT);
}

SEC("cgroup_skb/ingress")
int packet_received(struct __sk_buff *skb)
{
	return packet_passes(skb, BY_SERVER);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
