/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What kernel.h is to CO-RE: the same words for a compiler that has the running kernel's own headers. BCC's way of
 * rewriting accesses to tables and to kernel memory is not used; the loader makes the maps, and names their descriptors. */
#ifndef STACKMEND_BCC_H
#define STACKMEND_BCC_H

#include <linux/errqueue.h>
#include <linux/udp.h>
#include <net/sock.h>

#define FIELD(object, member)                                                              \
	({                                                                                \
		typeof((object)->member) value_ = 0;                                      \
		bpf_probe_read_kernel(&value_, sizeof(value_), (void *)&(object)->member); \
		value_;                                                                   \
	})
#define MEMBER(object, member, pointer) FIELD(object, member)
#define FIELD_INTO(target, object, member) bpf_probe_read_kernel(target, sizeof(*(target)), (void *)&(object)->member)
/* Bit-fields have no address to read them at: what no program binds itself has a port that the kernel hands out. */
#define IS_BOUND(sk) (FIELD(sk, __sk_common.skc_num) < knobs.ephemeral_low)
#define IS_IPV6_ONLY(sk) false
#define ADDRESS(object, member) ((void *)&(object)->member)
#define MAP(name) ((void *)bpf_pseudo_fd(1, name##_fd))
#define SELF own_tgid()
/* It has no variables: what has ended is always forgotten, and every socket looked up. */
#define FOLLOWED 0xffffffffU
#define COUNT_FOLLOWED(n) ((void)0)
#define MAY_BE_UNSETTLED(sk) true
#define COUNT_UNSETTLED(sk, n) ((void)0)
#define TRUSTED_TASK ((struct task_struct *)NULL)

#if IS_ENABLED(CONFIG_IPV6)
#define HAS(object, member) true
#else
#define HAS(object, member) false
#define skc_v6_daddr skc_daddr
#endif

/* The agent, whose own traffic is no dependency; filled in by learn_self(). */
static __always_inline __u32 own_tgid(void)
{
	__u32 only = 0, *tgid = bpf_map_lookup_elem(MAP(self), &only);

	return tgid ? *tgid : 0;
}

#endif
