"""Draw docs/dashboard.png: what --dashboard shows of a real server under a real load, as the README has it.

.venv/bin/python scripts/dashboard_picture.py [--dark] [PATH]
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from prefork.testing import Load, running_target  # noqa: E402  # found by the line above
from tests.support.browser import CHROMIUM, browser  # noqa: E402  # as above

SECONDS = 100
WIDTH, HEIGHT = 1080, 760

APP = """\
import random, time

def application(environ, start_response):
    time.sleep(random.choice([0.002, 0.004, 0.008, 0.02, 0.05, 0.3]))
    body = b"thanks\\n" * random.randint(1, 9)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""

PATHS = ("/", "/basket", "/basket/items", "/pay", "/search", "/images/thumbnails/17")


def main() -> int:
    """Serve, load, look, draw."""
    if not CHROMIUM:
        print("scripts/dashboard_picture.py: Chromium is not installed", file=sys.stderr)
        return 1
    dark = "--dark" in sys.argv
    paths = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    path = Path(paths[0]) if paths else ROOT / "docs" / "dashboard.png"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "shop.py").write_text(APP, encoding="utf-8")
        with (
            running_target(
                "shop:application",
                app_dir=folder,
                subcommand="wsgi",
                workers=4,
                threads=2,
                name="shop",
                dashboard="127.0.0.1:0",
            ) as server,
            browser() as page,
        ):
            page.open(f"http://{server.wait_for_log(r'dashboard: (.+)$')[1]}/")
            dice = random.Random(7)
            for second in range(SECONDS):
                get = f"GET {dice.choice(PATHS)} HTTP/1.0\r\nHost: shop\r\n\r\n".encode()
                with Load(server.address, payload=get, clients=1 + (second // 9 * 5) % 13, bodies=False):
                    time.sleep(1)  # the picture shows time passing
                    if second == SECONDS - 25:
                        os.kill(server.workers()[1], signal.SIGKILL)
                    if second == SECONDS - 40:
                        server.signal(signal.SIGHUP)
                    if second == SECONDS - 1:
                        page.picture(path, WIDTH, HEIGHT, dark=dark)
    return 0


if __name__ == "__main__":
    sys.exit(main())
