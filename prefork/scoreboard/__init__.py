"""What master and workers share: the layout of the shared memory, a worker's own entry in it, the pipe of events.

Each word has one writer. The MASTER makes it, a WORKER writes its entry. It imports no room but `prefork.errors` and
`prefork.system`.
"""
