/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What the programs keep of an attempt, and of a call, until they know how it ended. */
#ifndef STACKMEND_ATTEMPT_H
#define STACKMEND_ATTEMPT_H

/* CALLED: a cgroup hook saw connect(). SENT: the SYN left, which is not always looked up. LOST: the table was full. */
enum phase { IDLE, CALLED, SENT, OPEN, LOST };

struct connection {
	__u64 digest; /* of its destination */
	__u32 phase;
	__u32 error; /* that the caller was told of while the attempt went on */
	__u64 begun_ns;
};

/* What all sockets have in common whose addresses have some bits alike. The sockets of servers, and those that are done,
 * are the most that change; this tells without a look-up that a change is of no interest. */
struct place {
	__u64 called; /* the last that passed connect() and has not sent its SYN */
	__u32 unsettled; /* how many are at anything */
	__u32 pad;
};

/* Whether the verifier knows what a pointer points to, or it is a number like any other. */
enum pointer { NUMBER, TYPED };

/* A function's first arguments; no socket while it is not called. */
struct call {
	struct sock *sk;
	void *to;
};

_Static_assert(sizeof(struct connection) == 24 && sizeof(struct call) == 16, "layout of what lasts");

#endif
