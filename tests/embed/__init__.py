"""Other servers in workers of ours, and by a word of their own:

children: what handlers fork there.
hangs: what hangs and what only takes its time.
limits: servers that can't accept.
making: a Worker class of a server.
proxied: those to whom a proxy says whose connection it is.
quitting: an application that calls sys.exit.
servers: each of them, as its example runs it.
tls: those that speak TLS themselves.
unfinished: requests of which a part has come when their worker is told to leave.
"""
