"""The command, and by a word of their own:

output: where its words go may be full, closed or gone.
"""
