"""Listeners, and what the kernel tells of them: IPSocket and what accept(2) fails with, addresses, queues, gates, TLS.

Takes plain options, and knows neither workers nor policy. The MASTER makes, gates and ends listeners, by an `IPSocket`
each (or a `UnixSocket`). A WORKER has them by fork, closes what is not its own (`Listener.keep`), and accepts on the
standard socket that the master has made of each; `accepted`, `lingering` and handshakes (`tls`) are its own.
A unix path is taken, and given up, in `unixpath`; `binding` binds whatever an address says, that among others.
Imports config's addresses, system and errors; whoever stands below it in the house may import it.
"""
