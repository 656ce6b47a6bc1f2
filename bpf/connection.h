/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The life of one TCP attempt. What is known at connect() is kept for later, because changes of state happen in softirq,
 * where the current task is anybody's. */
#ifndef STACKMEND_CONNECTION_H
#define STACKMEND_CONNECTION_H

static __always_inline void tcp_failed(struct connection *connection, enum failure failure, int error)
{
	struct counters *counters = known_counters(connection->digest);

	connection->phase = IDLE;
	if (!counters)
		return;
	__sync_fetch_and_add(&counters->pending, -1);
	count_failure(counters, failure, error);
}

/* A connect() that ended before it sent a SYN: no route. The kernel shows nobody the errno. */
static __always_inline void tcp_unsent(struct connection *connection)
{
	if (connection->phase == CALLED)
		tcp_failed(connection, UNREACHABLE, 0);
}

static __always_inline void tcp_established(struct connection *connection)
{
	struct counters *counters = known_counters(connection->digest);

	connection->phase = OPEN;
	if (!counters)
		return;
	counters->last_established_ns = counters->oldest_pending_ns = bpf_ktime_get_ns();
	__sync_fetch_and_add(&counters->established, 1);
	__sync_fetch_and_add(&counters->open, 1);
	__sync_fetch_and_add(&counters->pending, -1);
}

/* Left ESTABLISHED, whoever closed first and however: a half-closed connection holds nothing any more. */
static __always_inline void tcp_ended(struct connection *connection)
{
	struct counters *counters = known_counters(connection->digest);

	connection->phase = IDLE;
	if (counters)
		__sync_fetch_and_add(&counters->open, -1);
}

/* SYN_SENT to CLOSE without an error: the caller gave up. Early that is its own affair (happy eyeballs closes the
 * slower of two); after knobs.patience_ns without an answer it is a time-out of the caller's own. */
static __always_inline void tcp_given_up(struct connection *connection)
{
	struct counters *counters;

	if (bpf_ktime_get_ns() - connection->begun_ns >= knobs.patience_ns) {
		tcp_failed(connection, TIMED_OUT, ETIMEDOUT);
		return;
	}
	connection->phase = IDLE;
	counters = known_counters(connection->digest);
	if (!counters)
		return;
	__sync_fetch_and_add(&counters->pending, -1);
	__sync_fetch_and_add(&counters->cancelled, 1);
}

/* The socket is gone, or is used anew. */
static __always_inline void tcp_settle(struct connection *connection)
{
	tcp_unsent(connection);
	if (connection->phase == OPEN)
		tcp_ended(connection);
	else if (connection->phase == SENT)
		tcp_given_up(connection);
}

/* What is there already is the socket's former attempt, or what is left of another socket. */
static __always_inline void tcp_begin(struct sock *sk, const struct destination *key, enum phase phase)
{
	struct connection begun = { .digest = digest_of(key), .phase = LOST }, *former = connection_of(sk);
	struct counters *counters = count_attempt(key, begun.digest);
	__u64 address = (__u64)sk;

	if (counters) {
		begun.phase = phase;
		begun.begun_ns = counters->last_attempt_ns;
		if (!counters->pending)
			counters->oldest_pending_ns = begun.begun_ns;
		__sync_fetch_and_add(&counters->pending, 1);
	}
	if (former) {
		if (former->phase == IDLE)
			COUNT_UNSETTLED(sk, 1);
		tcp_settle(former);
		*former = begun;
	} else if (!bpf_map_update_elem(MAP(attempts), &address, &begun, BPF_NOEXIST)) {
		COUNT_FOLLOWED(1);
		COUNT_UNSETTLED(sk, 1);
	} else if (counters) {
		__sync_fetch_and_add(&counters->pending, -1);
		__sync_fetch_and_add(&counters->attempts, -1);
		if (phase == SENT || !knobs.every_socket) /* else its SYN begins it once more */
			lose(LOST_MAP_FULL);
		return;
	}
	if (begun.phase == CALLED)
		note_call(sk);
}

static __always_inline bool is_waiting(const struct connection *connection)
{
	return connection->phase == CALLED || connection->phase == SENT;
}

/* ICMP that answers a SYN while connect() still holds the socket ends nothing: IPv4 queues it for the caller to read. */
static __always_inline int queued_error(struct sock *sk)
{
	struct sk_buff *skb = FIELD(sk, sk_error_queue.prev);
	struct sock_exterr_skb *error;

	if ((void *)skb == ADDRESS(sk, sk_error_queue))
		return 0;
	error = ADDRESS(skb, cb);
	return FIELD(error, ee.ee_errno);
}

static __always_inline void tcp_error(struct sock *sk)
{
	struct connection *connection = unsettled_connection_of(sk);

	if (connection && is_waiting(connection))
		connection->error = queued_error(sk);
}

static __always_inline void tcp_closed(struct connection *connection, struct sock *sk)
{
	int error = FIELD(sk, sk_err);

	if (!error)
		error = connection->error ? connection->error : FIELD(sk, sk_err_soft);
	if (error)
		tcp_failed(connection, failure_of(error), error);
	else if (!FIELD((struct inet_sock *)sk, inet_sport)) /* inet_hash_connect() found no free port */
		tcp_failed(connection, OTHER, EADDRNOTAVAIL);
	else
		tcp_given_up(connection);
}

static __always_inline int begin_from_socket(struct sock *sk, enum pointer pointer)
{
	struct destination key = { .transport = IPPROTO_TCP };

	set_peer(&key, sk, pointer);
	if (!is_wanted(sk, &key) || !set_caller(&key))
		return 0;
	tcp_begin(sk, &key, SENT);
	return 0;
}

static __always_inline void syn_sent(struct sock *sk, struct connection *connection)
{
	if (connection && connection->phase == CALLED)
		connection->phase = SENT;
	else if (connection && connection->phase == LOST)
		forget_settled(sk, connection);
	else if (knobs.every_socket) /* no cgroup hook on its way: fast open, multipath TCP, or the hook is missing */
		begin_from_socket(sk, TYPED);
}

/* Half of all changes of state tell nothing of attempts, and most others are of sockets that were called. */
static __always_inline bool tells_of_attempts(struct sock *sk, int oldstate, int newstate)
{
	if (newstate == BPF_TCP_SYN_SENT)
		return !knobs.peers_by_address && !take_call(sk);
	return (oldstate == BPF_TCP_SYN_SENT || oldstate == BPF_TCP_ESTABLISHED) && MAY_BE_UNSETTLED(sk);
}

/* The kernel skips a tracepoint's program that is running already on the same CPU. What the next change tells of a
 * skipped one is made up for, so that no gauge stays wrong. */
static __always_inline void state_changed(struct sock *sk, int oldstate, int newstate)
{
	struct connection *connection = unsettled_connection_of(sk);

	if (newstate == BPF_TCP_SYN_SENT) {
		syn_sent(sk, connection);
		return;
	}
	if (!connection)
		return;
	if (is_waiting(connection) && (newstate == BPF_TCP_ESTABLISHED || oldstate == BPF_TCP_ESTABLISHED))
		tcp_established(connection);
	if (is_waiting(connection) && newstate == BPF_TCP_CLOSE)
		tcp_closed(connection, sk);
	else if (connection->phase == OPEN && newstate != BPF_TCP_ESTABLISHED)
		tcp_ended(connection);
	forget_settled(sk, connection);
}

static __always_inline void tcp_destroyed(struct sock *sk)
{
	struct connection *connection = unsettled_connection_of(sk);

	if (!connection)
		return;
	if (connection->phase == CALLED)
		take_call(sk);
	tcp_settle(connection);
	connection->phase = IDLE;
	forget_settled(sk, connection);
}

/* connect() has failed. Unless its SYN went out, nothing else tells of it. */
static __always_inline void connect_failed(struct sock *sk, const struct destination *key, int error)
{
	struct counters *counters;

	if (unsettled_connection_of(sk) || !is_wanted(sk, key))
		return;
	counters = count_attempt(key, digest_of(key));
	if (counters)
		count_failure(counters, failure_of(error), error);
}

#endif
