"""The master, and by a word of their own:

built: the supervisor is whole when it is made.
flight_recorder: what the log says of those that are killed.
hang: workers that hang, and those that only seem to.
inherited_memory: what was loaded before the fork stays shared.
lossless: the promise, counted in every arrangement.
reload: workers replaced on purpose.
size: how many there are: by signal, by load.
watches: the kernel has no room for one more.
"""
