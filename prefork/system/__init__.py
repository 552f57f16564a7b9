"""One process and the kernel: fork and exit, signals, identity, limits, descriptors, clocks. Both processes run it.

It knows nothing of servers, and takes plain values. Every other room may import it; it imports `prefork.errors` alone.
"""
