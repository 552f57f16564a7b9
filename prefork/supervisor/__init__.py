"""The supervision of workers: event loop, policy, roster, forks, exits, drain, upgrade, takeover. MASTER only.

But for `prefork.supervisor.forked`, the first and last instructions of a worker's process. Signals arrive in
`supervisor`, which wires the others; `policy` decides, `executor` does it, and a death is judged in `exits`.
`upgrade` executes new code, which `handover` hands what there is; `takeover` and `heir` are for another server.
`prefork.master` is its face; what attaches to a running master stands in `prefork.services`, and sees it by `views`.
"""
