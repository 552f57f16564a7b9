"""The settings: what there is to set, what may not be said, where values come from, what is to be served.

A setting stands with its default in `settings`, or in the file of its subject; `fields` says what a setting is.
Nothing here listens or forks; the command's process runs it before there is a master. It imports `prefork.system`, and
every room from the scoreboard up may import it.
"""
