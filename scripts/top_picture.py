"""Draw docs/top.svg: what ``prefork top`` shows of a real server under a real load, as the README has it.

.venv/bin/python scripts/top_picture.py
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from prefork.cli.top_view import TopView
from prefork.services.control import Client
from prefork.testing import Load, running_target

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = 70  # as many as the sparklines have columns
INTERVAL = 0.25  # seconds

APP = """\
import random, time

def handle(connection, address):
    connection.recv(65536)
    time.sleep(random.choice([0.002, 0.004, 0.008, 0.02, 0.05, 0.2]))
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: 3\\r\\n\\r\\nhi\\n")
"""


def main() -> int:
    """Serve, load, look, draw."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "shop.py").write_text(APP)
        control = os.path.join(folder, "shop.control")
        with running_target("shop:handle", app_dir=folder, workers=8, control=control) as server:
            view = TopView()
            with Client(control) as client:
                for sample in range(SAMPLES):
                    clients = 2 + 14 * (1 + sample // 12) % 31
                    with Load(server.address, clients=clients):
                        time.sleep(INTERVAL)  # the picture shows time passing
                        if sample == SAMPLES - 3:
                            os.kill(server.workers()[2], signal.SIGKILL)
                        view.take_status(client.status())
    console = Console(record=True, width=80, height=22, file=open(os.devnull, "w"))  # noqa: SIM115  # of one run
    console.print(view.picture(80, 22), end="")
    (ROOT / "docs" / "top.svg").write_text(console.export_svg(title="prefork top"), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
