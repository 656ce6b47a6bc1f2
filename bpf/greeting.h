/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The layout that the kernel side and dma/naming/greetings.py share. Include a header with the __uNN types before it. */
#ifndef STACKMEND_GREETING_H
#define STACKMEND_GREETING_H

#define GREETING_BYTES 2048 /* a power of two; a TLS hello with its largest key shares fits */

enum sender { BY_CLIENT, BY_SERVER };

/* Who was called. */
struct place {
	__u32 daddr[4]; /* network order; IPv4 as ::ffff:a.b.c.d */
	__u16 dport; /* host order */
	__u16 pad;
};

/* The first bytes of one connection. */
struct greeting {
	struct place place;
	__u16 length;
	__u8 sender;
	__u8 pad;
	__u8 bytes[GREETING_BYTES];
};

/* Fixed before the programs are loaded. */
struct greeting_knobs {
	__u64 again_ns; /* a destination is not looked at again for so long */
	__u32 netns; /* inode of the one network namespace to watch; 0 watches all */
	__u32 pad;
};

_Static_assert(sizeof(struct greeting) == 24 + GREETING_BYTES && sizeof(struct greeting_knobs) == 16, "layout");

#endif
