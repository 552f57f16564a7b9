# Net::Server::PreFork. perl net_server.pl PORT WORKERS [echo]
use strict;
use warnings;

package Bench;
use base qw(Net::Server::PreFork);

my ($port, $workers, $echo) = @ARGV;

sub process_request {
    my ($self) = @_;
    my $data;
    while (sysread(STDIN, $data, 4096)) {
        if ($echo) {
            syswrite(STDOUT, $data);
            next;
        }
        select(undef, undef, undef, 0.02) if $data =~ m{^GET /slow};
        syswrite(STDOUT, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n"
              . "Connection: close\r\n\r\nhello\n");
        return;
    }
}

my $server = Bench->new(
    host => '127.0.0.1', port => $port, ipv => 4, listen => 2048, log_level => 1,
    min_servers => $workers, max_servers => $workers + 1, min_spare_servers => 1, max_spare_servers => $workers,
    max_requests => 1_000_000_000, user => $>, group => (split / /, $))[0],
);
$server->commandline([$^X, $0, @ARGV]);    # what it executes on HUP
$server->run;
