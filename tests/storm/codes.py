"""Code that a server of the storm is given, and what its handlers are asked to do (`tests.storm.application`)."""

from __future__ import annotations

from typing import Final

RAISES: Final = ("raise RuntimeError('broken as asked')", "import nothing_of_that_name")
ENDS: Final = (
    "import os; os._exit(7)",
    "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "import sys; sys.exit(3)",
    "import sys; sys.exit()",
)
BROKEN: Final = (*RAISES, *ENDS)
"""Code that does not boot: it raises, or it ends the process that runs it."""

MEDDLES: Final = (
    "import logging.config; logging.config.dictConfig({'version': 1})",
    "import os, tempfile; folder = tempfile.mkdtemp(); os.chdir(folder); os.rmdir(folder)",
    "import os, time; os.environ['TZ'] = 'Asia/Tokyo'; time.tzset()",
    "import socket; socket.setdefaulttimeout(0.5)",
    "import signal; [signal.signal(number, signal.SIG_IGN) for number in (1, 2, 3, 10, 12, 15, 17)]",
    "import asyncio; loop = asyncio.new_event_loop(); loop.add_signal_handler(15, loop.stop); loop.close()",
)
"""Code that boots, and changes what the process has from us."""

FORKS: Final = ("return", "raise", "exit", "execute", "late", "terminate")
TAKES: Final = ("handler", "ignore", "asyncio")
