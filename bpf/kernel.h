/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The few members of kernel structs that the programs read; CO-RE finds their offsets in the running kernel. */
#ifndef STACKMEND_KERNEL_H
#define STACKMEND_KERNEL_H

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct in6_addr {
	union {
		__u8 u6_addr8[16];
	} in6_u;
};

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct sock_common {
	__be32 skc_daddr;
	__be16 skc_dport;
	__u16 skc_num;
	short unsigned int skc_family;
	unsigned char skc_ipv6only : 1;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
};

struct sk_buff {
	char cb[48];
};

struct sk_buff_head {
	struct sk_buff *prev;
};

struct sock_extended_err {
	__u32 ee_errno;
};

struct sock_exterr_skb {
	struct sock_extended_err ee;
};

struct sock {
	struct sock_common __sk_common;
	struct sk_buff_head sk_error_queue;
	int sk_err;
	int sk_err_soft;
	__u16 sk_protocol;
	__u8 sk_userlocks : 4; /* a bit-field until Linux 6.x repacked struct sock */
	__u8 sk_kern_sock : 1;
	__s64 sk_stamp;
	void *sk_rx_dst;
};

struct inet_sock {
	__be16 inet_sport;
};

struct udp_sock {
	int pending; /* while a datagram is being put together from several sends */
};

struct msghdr {
	void *msg_name;
};

struct task_struct {
	int tgid;
	struct task_struct *group_leader;
	char comm[16];
};

#pragma clang attribute pop

#define FIELD(object, member) BPF_CORE_READ(object, member)
/* A pointer whose type the verifier knows is read directly, which costs a tenth. */
#define MEMBER(object, member, pointer) ((pointer) == TYPED ? (object)->member : FIELD(object, member))
#define FIELD_INTO(target, object, member) bpf_core_read(target, sizeof(*(target)), &(object)->member)
#define HAS(object, member) bpf_core_field_exists((object)->member) /* one built without IPv6 has no address for it */
#define IS_BOUND(sk) (BPF_CORE_READ_BITFIELD_PROBED(sk, sk_userlocks) & SOCK_BINDPORT_LOCK)
#define IS_KERNELS(sk) BPF_CORE_READ_BITFIELD_PROBED(sk, sk_kern_sock)
#define IS_IPV6_ONLY(sk) BPF_CORE_READ_BITFIELD_PROBED(sk, __sk_common.skc_ipv6only)
#define ADDRESS(object, member) ((void *)__builtin_preserve_access_index(&(object)->member))
#define SELF self_tgid
#define FOLLOWED followed
#define COUNT_FOLLOWED(n) __sync_fetch_and_add(&followed, n)
#define PLACE_BITS 15
#define MAY_BE_UNSETTLED(sk) (place_of(sk)->unsettled != 0)
#define COUNT_UNSETTLED(sk, n) __sync_fetch_and_add(&place_of(sk)->unsettled, n)
/* Reads of memory that the kernel vouches for cost nothing beside probes of it. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define TRUSTED_TASK (knobs.trusted_task ? bpf_get_current_task_btf() : NULL)
#else
#define TRUSTED_TASK ((struct task_struct *)NULL) /* names would have to be cut from the other end */
#endif
#define MAP(name) (&(name))

/* Constants of include/linux/socket.h, include/net/sock.h and include/net/tcp_states.h, which no UAPI header has. */
enum { AF_INET = 2, AF_INET6 = 10 };
enum { SOCK_BINDPORT_LOCK = 8 };
#define SK_DEFAULT_STAMP (-1000000000LL) /* until a socket has received something */

#endif
