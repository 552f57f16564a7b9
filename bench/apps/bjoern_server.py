"""bjoern in several processes on one listener, as its documentation does it.

python bjoern_server.py PORT|unix:PATH WORKERS MODULE:ATTRIBUTE
"""

import importlib
import os
import signal
import sys

import bjoern


def main() -> None:
    """Listen, fork, run; whoever ends first ends the others."""
    place, workers, (module, _, attribute) = sys.argv[1], int(sys.argv[2]), sys.argv[3].partition(":")
    application = getattr(importlib.import_module(module), attribute)
    if place.startswith("unix:"):
        bjoern.listen(application, place)
    else:
        bjoern.listen(application, "127.0.0.1", int(place))
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
