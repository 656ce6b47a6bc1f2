/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What the programs keep of an attempt, and of a call, until they know how it ended. */
#ifndef STACKMEND_ATTEMPT_H
#define STACKMEND_ATTEMPT_H

/* CALLED: a cgroup hook saw connect(). SENT: the SYN left. LOST: the table was full. */
enum phase { IDLE, CALLED, SENT, OPEN, LOST };

struct connection {
	struct destination key;
	__u32 phase;
	__u32 error; /* that the caller was told of while the attempt went on */
	__u32 pad;
	__u64 begun_ns;
};

/* A function's first arguments. */
struct call {
	struct sock *sk;
	void *to;
};

_Static_assert(sizeof(struct connection) == 56 && sizeof(struct call) == 16, "layout of what lasts");

#endif
