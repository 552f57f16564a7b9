"""``python -m tests.storm``: episode after episode; ``scripts/soak MINUTES`` runs it."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import traceback

from tests.storm.walk import Account, walk


def main() -> int:
    """Run; returns 1 when an episode has found something."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("minutes", type=float)
    parser.add_argument("--seed", type=int, help="of the first episode; the next ones follow from it")
    parser.add_argument("--episode", type=float, default=45.0, metavar="SECONDS", help="how long one is (45)")
    parser.add_argument("--verbose", action="store_true", help="tell every step")
    given = parser.parse_args()
    seed = random.randrange(1 << 32) if given.seed is None else given.seed
    account, began = Account(), time.monotonic()
    end = began + given.minutes * 60

    def tell(text: str) -> None:
        if given.verbose or not text.startswith(" "):
            print(f"{time.monotonic() - began:7.1f}  {text}", file=sys.stderr, flush=True)

    first = seed
    while (left := end - time.monotonic()) > 0:
        try:
            walk(seed, min(given.episode, left), account, tell)
        except Exception:  # noqa: BLE001  # told, and the next seed may find something else
            account.failed.append(seed)
            traceback.print_exc()
        seed += 1
    print(json.dumps({"seed": first, "seconds": round(time.monotonic() - began), **account.plain()}))
    return 1 if account.failed else 0


if __name__ == "__main__":
    sys.exit(main())
