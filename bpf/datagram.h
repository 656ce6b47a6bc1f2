/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* UDP: a datagram counts once, by the cgroup hook when it names its destination, else by the socket that it leaves. A
 * connect() alone sends nothing, and the C library connects only to sort addresses. */
#ifndef STACKMEND_DATAGRAM_H
#define STACKMEND_DATAGRAM_H

/* A server answers from the port that it bound to one that the client's kernel chose: no dependency of the server. */
static __always_inline bool is_reply(struct sock *sk, const struct destination *key)
{
	return key->dport >= knobs.ephemeral_low && IS_BOUND(sk) &&
	       key->dport != FIELD(sk, __sk_common.skc_num);
}

static __always_inline void udp_connected(struct connection *connection, const struct destination *key, struct sock *sk)
{
	connection->phase = IDLE;
	if (is_reply(sk, key))
		return;
	connection->key = *key;
	connection->phase = PEER;
	if (knobs.count_udp_connects)
		count_attempt(key);
}

static __always_inline bool is_peer(const struct connection *connection, const struct destination *key)
{
	return is_v4(&connection->key) && connection->key.daddr[3] == key->daddr[3] && connection->key.dport == key->dport;
}

/* True when the datagram is still to be counted. An IPv6 socket connected to an IPv4-mapped address comes here with
 * every datagram, since the kernel names the peer again. */
static __always_inline bool udp_addressed(struct connection *connection, const struct destination *key)
{
	if (!connection || connection->phase != PEER)
		return true;
	connection->addressed = 1;
	return !(knobs.count_udp_connects && is_peer(connection, key));
}

/* Sends of a socket that is corked, or was told of more to come, add to the datagram that the first of them began. */
static __always_inline bool has_begun_datagram(struct connection *connection, struct udp_sock *sk, int sent)
{
	bool was_held = connection->held;

	connection->held = FIELD(sk, pending) != 0;
	return connection->held ? FIELD(sk, len) == sent + sizeof(struct udphdr) : !was_held;
}

static __always_inline void udp_sent(struct connection *connection, struct sock *sk, int sent)
{
	if (!connection || connection->phase != PEER)
		return;
	if (sent >= 0 && has_begun_datagram(connection, (struct udp_sock *)sk, sent) && !connection->addressed)
		count_attempt(&connection->key);
	connection->addressed = 0;
}

/* What ICMP said of a datagram, perhaps before the send has returned; sockets that are not connected never hear of it. */
static __always_inline void udp_error(struct connection *connection, int error)
{
	struct counters *counters;

	if (!connection || connection->phase != PEER || !error)
		return;
	counters = counters_of(&connection->key);
	if (counters)
		count_failure(counters, failure_of(error), error);
}

#endif
