"""A SO_REUSEPORT group: a listening socket for each slot of the server, all on one address. MASTER; the theory is here.

**What the kernel does.** It chooses a member when the SYN comes, by a hash that knows neither who is idle nor whether
anybody serves, and keeps to it: a member's queue is its own, and is reset with the member's last descriptor
(socket(7)). So the master makes all members and keeps them open, whoever of the workers lives: a worker that dies
leaves its queue to the next worker of its slot. And a member that goes is first kept from new connections, then
emptied by its worker, and closed last.

**Who gets new connections** (`steering`). By default the hash chooses among all members. A program
(SO_ATTACH_REUSEPORT_CBPF, which needs no privilege) is attached to any one of them, holds for the whole group, a
second server's members included, and outlives who attached it: for each new connection it returns the index of the
member that gets it; an index that nobody has falls back to the hash. Three things are wanted of it:

* a *mode* (random, by CPU) and *steering* to some slots are for a group that is ours alone: beside a second server our
  program would take its connections, and stay when we are gone;
* *excluding* is for the end, and gives the others their due: it steers to all members but those excluded, a second
  server's too, or to a tarpit when there are none.

**Which member has which index** (`order`). The kernel tells nobody. Indices follow the order in which members began to
listen, except that the last takes the place of one that leaves. That can be kept book of as long as nobody else's
sockets come and go in the group. Once somebody else was seen there, it is found out anew each time, by knocking: steer
every SYN to index k, send one that any listener drops, and look whose count of drops has grown (SO_MEMINFO). Such a
SYN is one that is signed (TCP_MD5SIG, RFC 2385) for a listener that has no key: it is dropped before it is a handshake,
nobody accepts anything, and the next knock is some 30 us later. A client that connects in between reaches member k,
which is as good as any. It needs a kernel with CONFIG_TCP_MD5SIG, which the distributions' have; without it nothing is
found out.

**A member that answers nobody** (`tarpit`) is the gate of those who may not attach a filter: recent kernels (6.18.44
among them) let only CAP_NET_ADMIN do that (`prefork.net.syn_gate`), and a container's root does not have it by default.
Every SYN is steered to a socket that drops it; handshakes under way belong to the listener already and complete there.
The tarpit drops by two plain means. *IP_MINTTL* (ip(7)) of 255: no packet with a lower TTL is looked at, and nearly all
come with 64 or 128, less the routers on their way. That holds from the moment at which it listens. For those who send
with 255 from the same link there is *a full queue*: listen(2) with a backlog of 0 has room for one connection, and the
tarpit makes that one itself; a SYN that finds the queue full is dropped. A listener that was not opened for a group
becomes one for that time: SO_REUSEPORT is set on it late, and the kernel takes it into the group when the tarpit begins
to listen. Until then another server on the port is refused as ever.

`group` puts these together: sockets by slot, and which of them get new connections; also for the one socket of a
listener that is no group, which may become one with a tarpit.
"""
