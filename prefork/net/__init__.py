"""Sockets: the accept contract, listeners, what waits on them."""
