/* SPDX-License-Identifier: Apache-2.0 */
/* Load for the benchmark of the capture: one kind of call after another, to addresses of this machine.
 *
 *	load FIRST DESTINATIONS PORT
 *
 * Each line of the input, "KIND OPERATIONS PERIOD_US MILLISECONDS", asks for batches of calls, one every PERIOD_US (0:
 * one after the other) for so long. It is answered with how many calls there were, and with what one of them took in the
 * fastest quarter of the batches: nanoseconds of this thread's CPU time, in which softirqs of the loopback device count,
 * and other programs do not. One process makes all calls, since another has its memory elsewhere and is faster or slower.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCHES 1000000

struct load {
	in_addr_t first; /* host order */
	unsigned destinations, next, port;
	int receiver, sender;
};

static void need(int result, const char *what)
{
	if (result < 0) {
		fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
		exit(1);
	}
}

static int opened(int kind)
{
	int fd = socket(AF_INET, kind, 0);

	need(fd, "socket");
	return fd;
}

static struct sockaddr_in next_destination(struct load *load)
{
	in_addr_t address = load->first + load->next;

	load->next = (load->next + 1) % load->destinations;
	return (struct sockaddr_in){
		.sin_family = AF_INET, .sin_port = htons(load->port), .sin_addr.s_addr = htonl(address)
	};
}

static void receive_at(struct load *load, int kind)
{
	struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons(load->port) };
	int yes = 1;

	load->receiver = opened(kind);
	need(setsockopt(load->receiver, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)), "SO_REUSEADDR");
	need(bind(load->receiver, (struct sockaddr *)&any, sizeof(any)), "bind");
}

static void prepare_tcp(struct load *load)
{
	receive_at(load, SOCK_STREAM);
	need(listen(load->receiver, 4096), "listen");
}

static void prepare_udp(struct load *load)
{
	receive_at(load, SOCK_DGRAM);
	load->sender = opened(SOCK_DGRAM);
}

static void prepare_connected(struct load *load)
{
	struct sockaddr_in to = next_destination(load);

	prepare_udp(load);
	need(connect(load->sender, (struct sockaddr *)&to, sizeof(to)), "connect");
}

/* The caller closes first, as a client does that is done. */
static void operate_tcp(struct load *load)
{
	struct sockaddr_in to = next_destination(load);
	int caller = opened(SOCK_STREAM), accepted;

	need(connect(caller, (struct sockaddr *)&to, sizeof(to)), "connect");
	accepted = accept(load->receiver, NULL, NULL);
	need(accepted, "accept");
	close(caller);
	close(accepted);
}

static void operate_udp(struct load *load)
{
	struct sockaddr_in to = next_destination(load);

	need(sendto(load->sender, "x", 1, 0, (struct sockaddr *)&to, sizeof(to)), "sendto");
}

static void operate_connected(struct load *load)
{
	need(send(load->sender, "x", 1, 0), "send");
}

static void finish(struct load *load)
{
	close(load->receiver);
	if (load->sender)
		close(load->sender);
	load->sender = 0;
}

static void drain(struct load *load)
{
	char byte;

	while (recv(load->receiver, &byte, 1, MSG_DONTWAIT) >= 0)
		;
}

static void drain_nothing(struct load *load)
{
	(void)load;
}

static const struct kind {
	const char *name;
	void (*prepare)(struct load *);
	void (*operate)(struct load *);
	void (*drain)(struct load *); /* not timed */
} kinds[] = {
	{ "tcp", prepare_tcp, operate_tcp, drain_nothing },
	{ "udp", prepare_udp, operate_udp, drain },
	{ "connected", prepare_connected, operate_connected, drain },
};

static unsigned long long now_ns(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return time.tv_sec * 1000000000ULL + time.tv_nsec;
}

static void sleep_until(unsigned long long ns)
{
	struct timespec time = { .tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000 };

	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL);
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static const struct kind *kind_named(const char *name)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
		if (!strcmp(kinds[i].name, name))
			return &kinds[i];
	fprintf(stderr, "load: no kind %s: give tcp, udp or connected\n", name);
	exit(2);
}

static double batch(const struct kind *kind, struct load *load, unsigned operations)
{
	unsigned long long began = now_ns(CLOCK_THREAD_CPUTIME_ID), ended;

	for (unsigned i = 0; i < operations; i++)
		kind->operate(load);
	ended = now_ns(CLOCK_THREAD_CPUTIME_ID);
	kind->drain(load);
	return (double)(ended - began) / operations;
}

/* What a call took in each batch, sorted; returns the number of batches. */
static unsigned batches(const struct kind *kind, struct load *load, unsigned operations, unsigned long long period_ns,
			unsigned long long duration_ns, double *took)
{
	unsigned long long due = now_ns(CLOCK_MONOTONIC), end = due + duration_ns;
	unsigned count = 0;

	for (; now_ns(CLOCK_MONOTONIC) < end && count < BATCHES; count++, due += period_ns) {
		sleep_until(due);
		took[count] = batch(kind, load, operations);
	}
	qsort(took, count, sizeof(*took), compare);
	return count;
}

int main(int argc, char **argv)
{
	static double took[BATCHES];
	unsigned operations, period_us, milliseconds, count;
	const struct kind *kind;
	struct load load = {};
	char name[16];

	if (argc != 4) {
		fprintf(stderr, "usage: load FIRST DESTINATIONS PORT\n");
		return 2;
	}
	load.first = ntohl(inet_addr(argv[1]));
	load.destinations = atoi(argv[2]);
	load.port = atoi(argv[3]);
	while (scanf("%15s %u %u %u", name, &operations, &period_us, &milliseconds) == 4) {
		kind = kind_named(name);
		kind->prepare(&load);
		count = batches(kind, &load, operations, period_us * 1000ULL, milliseconds * 1000000ULL, took);
		finish(&load);
		printf("%llu %.1f\n", (unsigned long long)count * operations, took[count / 4]);
		fflush(stdout);
	}
	return 0;
}
