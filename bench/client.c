/* The measuring client: one thread, epoll, latencies counted from the moment at which a request was due.
 *
 *   client PORT open RATE SECONDS SEED SLOW   arrivals as a Poisson process, whatever the server does; one request in
 *                                             SLOW asks for /slow (0: none). Prints how they ended, then one line for
 *                                             each answered request: microseconds, and an s when it was a slow one.
 *   client PORT kept RATE SECONDS SEED SLOW   the same on connections that are kept: whoever comes takes the one that was
 *                                             used last and is free, or makes another; with POOL of them he waits,
 *                                             and that counts, too.
 *   client PORT echo MESSAGES CLIENTS SECONDS closed loop: each connection sends so many messages and reads them back.
 *                                             Prints connections, messages, errors, seconds.
 *   client AT load CLIENTS SECONDS HOW PATH [HEAD]
 *                                             closed loop of requests for PATH; HOW is kept or closing. AT is a port, or
 *                                             the path of a unix socket. HEAD comes before the first request of each
 *                                             connection. Prints a line when every client has been answered once, and
 *                                             measures from then on: requests, errors, seconds.
 *
 * Connections come from 127.0.0.2 to 127.0.0.251 in turn, so that no port is wanted twice within TIME_WAIT. An answer of
 * 503 is a client that was shed, and any other that is no 200 an error. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE 5000000000 /* ns that a request may take before it counts as timed out */
#define MESSAGE 64          /* bytes of an echoed message */
#define POOL 1000           /* connections that are kept at a time */

enum { CONNECTING, TALKING, FREE };
enum { ANSWERED, REFUSED, RESET, EMPTY, TIMED_OUT, SHED, FAILED, OUTCOMES };

struct client {
    int fd, state, slow, left, status;
    int closes; /* whether its server said that it will */
    uint32_t got;
    int64_t due, last;
    struct client *next, *previous; /* under way, oldest first; or next alone, of those that are free */
};

static struct client under_way = {.next = &under_way, .previous = &under_way};
static union {
    struct sockaddr any;
    struct sockaddr_in inet;
    struct sockaddr_un local;
} server = {.inet = {.sin_family = AF_INET}};
static char first[1024], next[1024]; /* what a connection begins with, and each later request on it; of load alone */
static struct client *is_free; /* kept, the one that was used last first */
static int epoll, kept, resting, connections, count[OUTCOMES];
static char buffer[65536];

static socklen_t size_of_server(void)
{
    return server.any.sa_family == AF_INET ? sizeof server.inet : sizeof server.local;
}

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void die(const char *what)
{
    perror(what);
    exit(2);
}

static void enlist(struct client *c)
{
    c->previous = under_way.previous, c->next = &under_way;
    c->previous->next = c, under_way.previous = c;
}

static struct client *start(int64_t due, int slow, int left)
{
    static uint32_t from;
    int on = 1;
    struct client *c = calloc(1, sizeof *c);
    struct sockaddr_in source = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000002 + from++ % 250)};
    struct epoll_event event = {.events = EPOLLOUT, .data.ptr = c};
    if (!c || (c->fd = socket(server.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)) < 0)
        die("socket");
    c->due = due, c->slow = slow, c->left = left, c->state = CONNECTING;
    if (server.any.sa_family == AF_INET) {
        setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (bind(c->fd, (struct sockaddr *)&source, sizeof source))
            die("bind");
    }
    connect(c->fd, &server.any, size_of_server()); /* how it went, epoll will tell */
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event))
        die("epoll_ctl");
    enlist(c);
    connections++;
    return c;
}

static void end(struct client *c, int outcome)
{
    count[outcome]++, connections--;
    close(c->fd);
    c->previous->next = c->next, c->next->previous = c->previous;
    free(c);
}

static int failure(int error, struct client *c)
{
    return error == ECONNREFUSED ? REFUSED : error == ECONNRESET || error == EPIPE || c->got ? RESET : EMPTY;
}

/* Connected: send the request or the first message; then listen to what comes. */
static int speak(struct client *c, int echoes)
{
    static const char *const request[] = {"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
                                          "GET /slow HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
                                          "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
                                          "GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n"};
    const char *data = echoes ? buffer : !*next ? request[2 * kept + c->slow] : c->state == CONNECTING ? first : next;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error || write(c->fd, data, echoes ? MESSAGE : strlen(data)) < 0)
        return end(c, failure(error ? error : errno, c)), 0;
    c->state = TALKING;
    return epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event), 1;
}

/* On a kept connection the answer ends with the six bytes of its body; so does a part of it, if it is cut there. */
static int is_whole(const struct client *c, ssize_t got)
{
    return kept && got >= 6 && c->got > 60 && !memcmp(buffer + got - 6, "hello\n", 6);
}

/* What the head of an answer says: a status that is no 200, and whether another request can be sent. */
static void look_at(struct client *c, ssize_t got)
{
    if (c->got || got < 12)
        return;
    if (memcmp(buffer + 9, "200", 3))
        c->status = atoi(buffer + 9);
    c->closes = kept && memmem(buffer, got, "onnection: close", 16);
}

/* How a connection has ended on which an answer came: anything but a 200 ends it, kept or not. */
static int verdict(const struct client *c)
{
    return !c->status ? ANSWERED : c->status == 503 ? SHED : FAILED;
}

/* Nothing is under way on it any more, until somebody comes. */
static void rest(struct client *c)
{
    c->previous->next = c->next, c->next->previous = c->previous;
    c->state = FREE, c->next = is_free, is_free = c;
}

static void answered_on(struct client *c, int64_t *latencies, char *slow, size_t *answered)
{
    latencies[*answered] = c->last - c->due, slow[(*answered)++] = c->slow;
}

/* The answer, or a part of it: without Content-Length HTTP ends when the server closes. */
static void listen_to(struct client *c, int64_t *latencies, char *slow, size_t *answered)
{
    ssize_t got = read(c->fd, buffer, sizeof buffer);
    if (got > 0) {
        look_at(c, got);
        c->got += got, c->last = now();
        if (kept && c->status) {
            end(c, verdict(c));
        } else if (is_whole(c, got)) {
            answered_on(c, latencies, slow, answered);
            if (c->closes) {
                end(c, ANSWERED);
                return;
            }
            count[ANSWERED]++;
            rest(c);
        }
    } else if (got == 0 && c->got) {
        if (!c->status)
            answered_on(c, latencies, slow, answered);
        end(c, verdict(c));
    } else if (got == 0 || errno != EAGAIN) {
        end(c, got == 0 ? EMPTY : failure(errno, c));
    }
}

/* The server has ended a connection that nothing was under way on: that is no loss. */
static void part(struct client *c)
{
    struct client **at = &is_free;
    while (*at != c)
        at = &(*at)->next;
    *at = c->next, connections--;
    close(c->fd);
    free(c);
}

/* Whether a request can be sent now. A server that can't keep up is not to be sent ever more connections. */
static int may_come(void)
{
    return !kept || is_free || connections < POOL;
}

/* The next request: on a connection that is free, or on another. */
static void come(int64_t due, int slow)
{
    struct client *c = is_free;
    if (!c) {
        start(due, slow, 0);
        return;
    }
    is_free = c->next;
    c->due = due, c->slow = slow, c->got = 0;
    enlist(c);
    speak(c, 0);
}

static int open_loop(double rate, double seconds, long seed, int slow_every)
{
    size_t most = rate * seconds * 1.5 + 1000, sent = 0, answered = 0;
    int64_t *latencies = malloc(most * sizeof *latencies), due = now(), last = due + seconds * 1e9;
    char *slow = malloc(most);
    struct epoll_event events[256];
    if (!latencies || !slow)
        die("malloc");
    srand48(seed);
    while (due < last || under_way.next != &under_way) {
        int64_t at = now();
        while (due <= at && due < last && sent < most && may_come()) {
            sent++;
            come(due, slow_every && sent % slow_every == 0);
            due += -log1p(-drand48()) * 1e9 / rate;
        }
        while (under_way.next != &under_way && at - under_way.next->due > PATIENCE)
            end(under_way.next, TIMED_OUT);
        int64_t wait = due >= last || !may_come() ? 100000000 : due > at ? due - at : 0;
        struct timespec until = {.tv_sec = wait / 1000000000, .tv_nsec = wait % 1000000000};
        int ready = epoll_pwait2(epoll, events, 256, &until, NULL);
        for (int n = 0; n < ready; n++) {
            struct client *c = events[n].data.ptr;
            if (c->state == TALKING)
                listen_to(c, latencies, slow, &answered);
            else if (c->state == FREE)
                part(c);
            else
                speak(c, 0);
        }
    }
    printf("answered %d refused %d reset %d empty %d timeout %d shed %d failed %d\n", count[ANSWERED], count[REFUSED],
           count[RESET], count[EMPTY], count[TIMED_OUT], count[SHED], count[FAILED]);
    for (size_t n = 0; n < answered; n++)
        printf("%lld%s\n", (long long)latencies[n] / 1000, slow[n] ? "s" : "");
    return 0;
}

/* One message has come back, or a part of it; whether the client has ended. */
static int echoed(struct client *c, long *messages)
{
    ssize_t got = read(c->fd, buffer, sizeof buffer);
    if (got <= 0)
        return end(c, RESET), 1;
    if ((c->got += got) < MESSAGE)
        return 0;
    ++*messages, c->got = 0;
    if (--c->left == 0)
        return end(c, ANSWERED), 1;
    if (write(c->fd, buffer, MESSAGE) != MESSAGE)
        return end(c, RESET), 1;
    return 0;
}

static int echo(int messages, int clients, double seconds)
{
    long done = 0;
    struct epoll_event events[256];
    int64_t begin = now(), last = begin + seconds * 1e9;
    for (int n = 0; n < clients; n++)
        start(begin, 0, messages);
    while (under_way.next != &under_way) {
        int ready = epoll_wait(epoll, events, 256, 1000);
        if (ready == 0 && now() > last + PATIENCE)
            return fprintf(stderr, "the server answers no more\n"), 1;
        for (int n = 0; n < ready; n++) {
            struct client *c = events[n].data.ptr;
            int ended = c->state == TALKING ? echoed(c, &done) : !speak(c, 1);
            if (ended && now() < last)
                start(0, 0, messages);
        }
    }
    printf("connections %d messages %ld errors %d seconds %.3f\n", count[ANSWERED], done,
           count[REFUSED] + count[RESET] + count[EMPTY], (now() - begin) / 1e9);
    return 0;
}

enum { GOES_ON, ENDED, ENDED_ANSWERED, RESTS, RESTED };

/* What has come on a connection of load. */
static int loaded(struct client *c)
{
    ssize_t got = read(c->fd, buffer, sizeof buffer);
    if (got < 0 && errno == EAGAIN)
        return GOES_ON;
    if (got <= 0) {
        int how = got == 0 && c->got && !c->status ? ENDED_ANSWERED : ENDED;
        return end(c, got < 0 ? failure(errno, c) : c->got ? verdict(c) : EMPTY), how;
    }
    look_at(c, got);
    c->got += got;
    if (!kept || (!c->status && !is_whole(c, got)))
        return GOES_ON;
    if (c->status)
        return end(c, verdict(c)), ENDED;
    if (c->closes)
        return end(c, ANSWERED), ENDED_ANSWERED;
    count[ANSWERED]++, c->got = 0;
    if (!resting)
        return speak(c, 0) ? GOES_ON : ENDED;
    rest(c);
    return RESTS;
}

/* So many connections are made at once that no queue of the server's or the kernel's is full. */
#define AT_ONCE 200

/* Let each client be answered once, and rest; what it is left with is on the list of those that are free, or was closed.
 * Returns how many of them have to come anew, or -1 when not all were answered. */
static int assemble(int clients)
{
    int begun = 0, met = 0, kept_ones = 0;
    int64_t patience = now() + 4 * PATIENCE;
    struct epoll_event events[256];
    resting = 1;
    while (met < clients) {
        if (now() > patience)
            return fprintf(stderr, "only %d of %d clients were answered\n", met, clients), -1;
        while (begun < clients && begun - met < AT_ONCE)
            start(0, 0, 0), begun++;
        int ready = epoll_wait(epoll, events, 256, 100);
        for (int n = 0; n < ready; n++) {
            struct client *c = events[n].data.ptr;
            int how = c->state == FREE ? RESTED : c->state == TALKING ? loaded(c) : speak(c, 0) ? GOES_ON : ENDED;
            if (how == RESTED)
                part(c), kept_ones--;
            else if (how == RESTS)
                met++, kept_ones++;
            else if (how == ENDED_ANSWERED)
                met++;
            else if (how == ENDED)
                begun--;
        }
    }
    resting = 0;
    return clients - kept_ones;
}

static int load(int clients, double seconds)
{
    struct epoll_event events[256];
    int anew = assemble(clients);
    if (anew < 0)
        return 1;
    memset(count, 0, sizeof count);
    printf("all\n");
    fflush(stdout);
    int64_t begin = now(), last = begin + seconds * 1e9;
    while (is_free) {
        struct client *c = is_free;
        is_free = c->next, c->got = 0, c->state = TALKING;
        enlist(c);
        if (!speak(c, 0))
            anew++;
    }
    while (anew-- > 0)
        start(0, 0, 0);
    while (now() < last) {
        int ready = epoll_wait(epoll, events, 256, 100);
        for (int n = 0; n < ready; n++) {
            struct client *c = events[n].data.ptr;
            if ((c->state == TALKING ? loaded(c) : speak(c, 0) ? GOES_ON : ENDED) != GOES_ON)
                start(0, 0, 0);
        }
    }
    printf("requests %d errors %d seconds %.3f\n", count[ANSWERED],
           count[REFUSED] + count[RESET] + count[EMPTY] + count[SHED] + count[FAILED], (now() - begin) / 1e9);
    return 0;
}

/* What a connection of load sends. */
static void compose(const char *path, const char *head)
{
    snprintf(next, sizeof next, "GET %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n", path, kept ? "" : "Connection: close\r\n");
    snprintf(first, sizeof first, "%s%s", head, next);
}

int main(int argc, char **argv)
{
    if (argc < 6 || argc > 8)
        return fprintf(stderr, "usage: client PORT open|kept RATE SECONDS SEED SLOW | PORT echo MESSAGES CLIENTS SECONDS"
                               " | AT load CLIENTS SECONDS kept|closing PATH [HEAD]\n"), 2;
    if (*argv[1] == '/') {
        server.local.sun_family = AF_UNIX;
        strncpy(server.local.sun_path, argv[1], sizeof server.local.sun_path - 1);
    } else {
        server.inet.sin_addr.s_addr = htonl(INADDR_LOOPBACK), server.inet.sin_port = htons(atoi(argv[1]));
    }
    if ((epoll = epoll_create1(EPOLL_CLOEXEC)) < 0)
        die("epoll_create1");
    if (!strcmp(argv[2], "load") && argc > 6) {
        kept = !strcmp(argv[5], "kept");
        compose(argv[6], argc > 7 ? argv[7] : "");
        return load(atoi(argv[3]), atof(argv[4]));
    }
    kept = !strcmp(argv[2], "kept");
    if ((kept || !strcmp(argv[2], "open")) && argc == 7)
        return open_loop(atof(argv[3]), atof(argv[4]), atol(argv[5]), atoi(argv[6]));
    return echo(atoi(argv[3]), atoi(argv[4]), atof(argv[5]));
}
