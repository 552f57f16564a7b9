"""A WSGI application that counts with prometheus_client, and answers scrapes for all workers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, make_wsgi_app

from prefork.prometheus import SharedCollector

registry = CollectorRegistry()
SharedCollector(registry)
scrape = make_wsgi_app(registry)

orders = Counter("orders", "Orders.", ["kind"])
sizes = Histogram("sizes", "Sizes.", buckets=(1, 2, 4))
times = Summary("times", "Times.")
gauges = {
    mode: Gauge(f"level_{mode}", "A level.", multiprocess_mode=mode)
    for mode in ("all", "liveall", "min", "livemin", "max", "livemax", "sum", "livesum", "mostrecent", "livemostrecent")
}


def application(environ: dict[str, Any], start: Callable[..., object]) -> Iterable[bytes]:
    """``/metrics``; ``/count/KIND/LEVEL`` counts in whichever worker answers, and says its pid."""
    if environ["PATH_INFO"] == "/metrics":
        answer: Iterable[bytes] = scrape(environ, start)
        return answer
    _, _, kind, level = environ["PATH_INFO"].split("/")
    orders.labels(kind).inc()
    sizes.observe(float(level))
    times.observe(float(level))
    for gauge in gauges.values():
        gauge.set(float(level))
    if kind == "forked":
        if os.fork() == 0:
            orders.labels(kind).inc(1000)
            os._exit(0)
        os.wait()
    time.sleep(0.02)  # so that another worker has the next
    start("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % os.getpid()]
