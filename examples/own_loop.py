"""A server with a loop of its own: the standard library's wsgiref on the shared listener.

Each worker makes a wsgiref server, takes connections from ``self.accept()`` and lets wsgiref process them.
Run it with ``python examples/own_loop.py``.
"""

import os
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, demo_app

import prefork


class Wsgiref(prefork.Worker):
    """A wsgiref server in each process."""

    def run(self) -> None:
        """Process connections until it is time to leave."""
        host, port = self.sockets[0].getsockname()[:2]
        server = WSGIServer((host, port), WSGIRequestHandler, bind_and_activate=False)
        server.server_name, server.server_port = host, port
        server.setup_environ()
        server.base_environ["prefork.pid"] = str(os.getpid())
        server.set_app(demo_app)
        while (accepted := self.accept()) is not None:
            with self.busy():
                server.process_request(*accepted)


if __name__ == "__main__":
    import logging

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    prefork.Master(Wsgiref, prefork.Settings(bind="127.0.0.1:8000", workers=2)).run()
