"""What a terminal sees: the command, its flags, its subcommands, `prefork top`, metrics.

The command's own process runs it; one that serves becomes the master. No room but `prefork.wsgi` imports it.
"""
