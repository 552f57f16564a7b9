"""What balancers ask the master: whether the server is fit (HTTP), and how much it can take (HAProxy's agent-check)."""

from __future__ import annotations

from prefork.scoreboard.layout import Accepts, Order, Readiness
from prefork.services.answers import AnswerService
from prefork.status.agent import WARM_AFTER, WARM_AGE, Agent, Workload, reason_of
from prefork.status.collector import doing


class HealthService(AnswerService):
    """Says whether the server is fit, to whoever asks by HTTP for whatever path."""

    asks = True

    def answer(self, request: bytes) -> bytes:
        """A whole response."""
        method = request.partition(b" ")[0]
        if method not in {b"GET", b"HEAD"}:
            return _response("405 Method Not Allowed", "GET and HEAD alone", "Allow: GET, HEAD\r\n")
        reason = reason_of(self._server.readiness())
        whole = _response("503 Service Unavailable", reason) if reason else _response("200 OK", "ready")
        return whole if method == b"GET" else whole[: whole.index(b"\r\n\r\n") + 4]


class AgentService(AnswerService):
    """Says to HAProxy what share of the clients the server can take.

    Args:
        setting: The name of the setting, for messages.
        where: Its value.
        usual: The setting ``agent_request_time``.
    """

    def __init__(self, setting: str, where: str, usual: float = 0.0) -> None:
        super().__init__(setting, where)
        self._agent = Agent(usual)

    def answer(self, request: bytes) -> bytes:  # noqa: ARG002  # nobody asks
        """One line."""
        now = self._loop.clock.monotonic()
        readiness = self._server.readiness()
        load = self._load(now) if readiness is Readiness.READY else Workload(1, 0, 0, 0)
        return self._agent.line(readiness, load, now).encode()

    def _load(self, now: float) -> Workload:
        server, free, warm, total, busy, lanes = self._server, 0, 0, 0, 0, set[int]()
        for member in server.roster:
            if member.starting or member.order is not Order.RUN:
                continue
            view = server.spawner.view(member)
            if doing(member, view, now)[0] in {"idle", "busy"}:
                free += sum(not lane.busy_since for lane in view.lanes)
            served = sum(lane.served + lane.failed for lane in view.lanes)
            warm += served >= WARM_AFTER or now - member.born >= WARM_AGE
            total += served
            busy += sum(lane.busy_total for lane in view.lanes)
            lanes.add(len(view.lanes) if view.accepts is Accepts.USUAL else 0)
        waiting = sum(listener.waiting() for listener in server.listeners)
        size, count = server.goal.size, min(lanes, default=1)
        idle = -(-free // max(1, count))  # as many workers could be wholly idle
        return Workload(size, min(idle, size), min(warm, size), waiting, size * count, total, busy / 1e9)


def _response(status: str, body: str, *fields: str) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body) + 1}\r\n"
    return f"{head}Cache-Control: no-store\r\nConnection: close\r\n{''.join(fields)}\r\n{body}\n".encode()
