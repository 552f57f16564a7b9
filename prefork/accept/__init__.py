"""How a worker accepts: the wait, the recovery from every failure of accept(2), leaks, shedding, kept ones. WORKER.

What happens when accept fails, at EMFILE above all, is decided in `recovery`.
The MASTER makes before the fork what each is given (`worker_context`), and the return queue. It imports `prefork.net`,
hooks and what stands above them in the house; `prefork.worker` uses it, and loops of one's own that stand below that.
"""
