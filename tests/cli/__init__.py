"""The command, and by words of their own:

check: whether a server would start, as a start itself would find.
output: where its words go may be full, closed or gone.
"""
