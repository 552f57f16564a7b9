"""A SO_REUSEPORT group: a listening socket for each slot of the server, all on one address.

The kernel chooses the member when the SYN comes, by a hash that knows neither who is idle nor whether anybody
serves (socket(7)). So the MASTER keeps every member open, whoever of the workers lives, and does three things about
the choice:

* `order` finds out which member has which index, for that follows the order of listen(2) and nobody tells it;
* `group` steers: a classic BPF program (SO_ATTACH_REUSEPORT_CBPF) gives new connections to members that are served;
* `syn_gate` closes the whole group to new handshakes at a stop; where no filter may be attached, `tarpit` is a member
  that answers nobody, and the program steers each SYN there.

Closing a member resets its queue. One that goes is steered away from, gated, emptied by its worker, and closed last.
"""
