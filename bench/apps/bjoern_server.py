"""bjoern in several processes on one listener, as its documentation does it.

python bjoern_server.py PORT WORKERS
"""

import os
import signal
import sys

import application
import bjoern


def main() -> None:
    """Listen, fork, run; whoever ends first ends the others."""
    port, workers = int(sys.argv[1]), int(sys.argv[2])
    bjoern.listen(application.application, "127.0.0.1", port)
    pids = []
    for _ in range(workers):
        pid = os.fork()
        if pid == 0:
            try:
                bjoern.run()
            except KeyboardInterrupt:
                pass
            finally:
                os._exit(0)
        pids.append(pid)

    def stop(_signum: int, _frame: object) -> None:
        for pid in pids:
            os.kill(pid, signal.SIGINT)

    signal.signal(signal.SIGTERM, stop)
    for pid in pids:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
