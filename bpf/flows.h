/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The layout that the kernel side and dma/capture/layout.py share. Include a header with the __uNN types before it. */
#ifndef STACKMEND_FLOWS_H
#define STACKMEND_FLOWS_H

enum failure { REFUSED, TIMED_OUT, UNREACHABLE, RESET, OTHER, FAILURES };
enum loss { LOST_MAP_FULL, LOST_RING_FULL, LOSSES };
enum urgency { FIRST_SIGHTING, FAILED };

/* Who is called, and by which program. Never the source port. */
struct destination {
	__u32 daddr[4]; /* network order; IPv4 as ::ffff:a.b.c.d, which also tells the family */
	__u8 command[16]; /* of the process, not of the thread; NUL padded */
	__u16 dport; /* host order */
	__u8 transport; /* IPPROTO_TCP or IPPROTO_UDP */
	__u8 pad[5];
};

/* attempts = established + pending + cancelled + the sum of failures, for TCP. Times are CLOCK_MONOTONIC; 0 is never. */
struct counters {
	__u64 attempts;
	__u64 established;
	__u64 cancelled;
	__u64 failures[FAILURES];
	__u64 first_ns;
	__u64 last_attempt_ns;
	__u64 last_established_ns;
	__u64 last_failure_ns;
	__u64 oldest_pending_ns; /* valid while pending; moves on with every answer */
	__u32 open;
	__u32 pending;
	__u32 last_errno; /* 0 when the kernel does not show it */
	__u32 pad;
};

/* What the table holds. Its key is a digest of the destination: the kernel's own hash of something so long, and the
 * comparison, would cost twice as much as all that the programs do. */
struct entry {
	struct destination destination;
	struct counters counters;
};

/* A connected UDP socket, whose datagrams nobody looks at. */
struct talk {
	struct destination key;
	__u32 counted; /* an error told of a datagram, so that it is an attempt already */
	__u32 pad;
	__u64 begun_ns;
};

/* What wakes the reader; it reads the table for the rest. */
struct event {
	__u32 urgency;
	__u32 pad;
};

/* Fixed before the programs are loaded, so that the verifier drops what a setting makes unreachable. */
struct knobs {
	__u64 patience_ns; /* an attempt given up after this long without an answer has timed out */
	__u64 talk_ns; /* a connected UDP socket that lasts so long was made to send */
	__u32 netns; /* inode of the one network namespace to watch; 0 watches all */
	__u32 ephemeral_low; /* first port that the kernel hands out itself */
	__u32 kept; /* of TCP sockets that are followed; what ends among more is forgotten */
	__u8 keep_loopback;
	__u8 every_socket; /* 0: only sockets that passed the cgroup hooks */
	__u8 count_udp_connects; /* where nothing tells of their sockets' end */
	__u8 peers_by_address; /* of UDP sockets: kprobes cannot reach a socket's own storage */
	__u8 trusted_task; /* the kernel lets programs read the calling task as memory of their own */
	__u8 pad[7];
};

_Static_assert(sizeof(struct destination) == 40 && sizeof(struct entry) == 160, "layout of the table");
_Static_assert(sizeof(struct talk) == 56, "layout of connected UDP sockets");
_Static_assert(sizeof(struct event) == 8 && sizeof(struct knobs) == 40, "layout of events and knobs");

#endif
