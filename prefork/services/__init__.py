"""What attaches to a running master: control socket, service manager, pidfile, process titles, reloader, log. MASTER.

Each is a `prefork.supervisor.service.Service`; the supervisor knows none of them. `prefork.master` attaches them.
The log is opened, and reopened, in `log`; `prefork.system.logfile` is no more than a safe open(2).
"""
