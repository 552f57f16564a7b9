"""fastwsgi in one process, as its documentation does it.

python fastwsgi_server.py PORT
"""

import sys

import application
import fastwsgi


def main() -> None:
    """Run it; it listens to SIGINT."""
    fastwsgi.server.tcp_nodelay = 1
    fastwsgi.run(wsgi_app=application.application, host="127.0.0.1", port=int(sys.argv[1]), loglevel=0)


if __name__ == "__main__":
    main()
