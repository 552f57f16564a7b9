"""One process and the kernel, and by a word of their own:

close_range: the descriptors that a child closes.
privileges: what they are kept from.
"""
