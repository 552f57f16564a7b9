"""The bare Python loop: what os.fork, socket.accept and a handler cost without a server around them.

python bare.py HANDLER WORKERS
"""

import os
import signal
import socket
import sys

import handlers


def main() -> None:
    """Fork the workers and wait for a signal."""
    handle, workers = getattr(handlers, sys.argv[1]), int(sys.argv[2])
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(workers):
        if os.fork() == 0:
            while True:
                connection, address = listener.accept()
                handle(connection, address)
                connection.close()
    host, port = listener.getsockname()
    print(f"serving on {host}:{port} with {workers} workers, pid {os.getpid()}", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
