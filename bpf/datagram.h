/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Which datagrams are no dependency of who sends them. */
#ifndef STACKMEND_DATAGRAM_H
#define STACKMEND_DATAGRAM_H

/* A server answers from the port that it bound to one that the client's kernel chose: no dependency of the server. */
static __always_inline bool may_be_reply(const struct destination *key)
{
	return key->dport >= knobs.ephemeral_low;
}

static __always_inline bool is_reply(struct sock *sk, const struct destination *key)
{
	return may_be_reply(key) && IS_BOUND(sk) &&
	       key->dport != FIELD(sk, __sk_common.skc_num);
}

#endif
