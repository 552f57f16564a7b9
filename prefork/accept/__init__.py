"""How a worker accepts: the wait, the recovery from every failure of accept(2), leaks, shedding. WORKER only.

It imports from `prefork.net` and the scoreboard downwards; `prefork.worker` is who uses it.
"""
