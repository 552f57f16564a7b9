/* The floor: the least that a prefork server can cost. N children block in accept(2) on one listener; each reads once,
 * answers, closes. With -e they echo until the client closes. cc -O2 -o floor floor.c; floor [-e] WORKERS */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static const char hello[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n";

static void work(int listener, int echoes)
{
    char data[4096];
    for (;;) {
        int connection = accept(listener, NULL, NULL);
        ssize_t got = read(connection, data, sizeof data);
        if (!echoes && got > 0)
            got = write(connection, hello, sizeof hello - 1);
        else
            while (got > 0 && write(connection, data, got) == got)
                got = read(connection, data, sizeof data);
        close(connection);
    }
}

int main(int argc, char **argv)
{
    int echoes = argc > 2 && !strcmp(argv[1], "-e"), workers = atoi(argv[argc - 1]), on = 1;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof name;
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&name, length) || listen(listener, 2048))
        return perror("floor"), 1;
    for (int n = 0; n < workers; n++)
        if (fork() == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            work(listener, echoes);
        }
    getsockname(listener, (struct sockaddr *)&name, &length);
    printf("serving on 127.0.0.1:%d with %d workers, pid %d\n", ntohs(name.sin_port), workers, getpid());
    fflush(stdout);
    while (wait(NULL) > 0)
        ;
    return 0;
}
