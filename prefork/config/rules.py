"""What settings may not say, each by itself and together. Pure.

Each rule is a function of all values; the table of rules stands after them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final, NamedTuple

from prefork.config.address import Address, parse
from prefork.config.fields import Field
from prefork.config.preloading import OF_MOLD
from prefork.errors import SettingsError, did_you_mean
from prefork.system.natives import socket

Values = Mapping[str, Any]
"""Checked values by the names of their settings."""


def _workers(values: Values) -> Iterator[str]:
    workers, least, most = values["workers"], values["min_workers"], values["max_workers"]
    if least and most and least > most:
        yield f"min_workers: {least} is more than max_workers ({most}); give {most} or less"
    elif isinstance(workers, int) and least > workers:
        yield f"min_workers: {least} is more than workers ({workers}); give {workers} or less"
    elif isinstance(workers, int) and most and most < workers:
        yield f"max_workers: {most} is less than workers ({workers}); give {workers} or more"


def _jitter(name: str) -> Callable[[Values], Iterator[str]]:
    def rule(values: Values) -> Iterator[str]:
        base, jitter = values[name], values[f"{name}_jitter"]
        if jitter > base:
            remedy = f"give {base:g} or less" if base else f"give {name} as well"
            yield f"{name}_jitter: {jitter:g} is more than {name} ({base:g}); {remedy}"

    return rule


def _backoff(values: Values) -> Iterator[str]:
    first, longest = values["backoff_initial"], values["backoff_max"]
    if first > longest:
        yield f"backoff_initial: {first:g} is more than backoff_max ({longest:g}); give {longest:g} or less"


def _addresses(values: Values) -> Iterator[str]:
    """Two addresses where the second could never be had because of the first."""
    bind = values["bind"]
    texts = (bind,) if isinstance(bind, str) else bind
    seen: list[tuple[str, Address]] = []
    for text in texts:
        address = parse(text)
        clash = next((other for other, a in seen if _clash(a, address, v6only=values["v6only"])), None)
        if clash == text:
            yield f"bind: {text!r} is there twice; give it once"
        elif clash is not None:
            remedy = " or set v6only" if {"inet", "inet6"} == {address.kind, parse(clash).kind} else ""
            yield f"bind: {text!r} asks for what {clash!r} takes already; give one of them{remedy}"
        seen.append((text, address))


def _clash(a: Address, b: Address, *, v6only: bool) -> bool:
    if a.kind == b.kind == "systemd":
        return a.name == b.name or not a.name or not b.name
    if a.kind in {"inet", "inet6"} and b.kind in {"inet", "inet6"}:
        if a.port != b.port or a.port == 0:
            return False
        return _covers(a, b, v6only=v6only) or _covers(b, a, v6only=v6only)
    if a.kind == b.kind == "unix":
        return a.path == b.path  # whatever their types: a path is one file
    return a == b


def _covers(a: Address, b: Address, *, v6only: bool) -> bool:
    """Whether a socket on ``a`` takes the connections that are meant for ``b`` on the same port."""
    if a.host == b.host or {a.host, b.host} == {"", "0.0.0.0"}:
        return True
    if a.kind == "inet6":
        return a.host == "::" and (b.kind == "inet6" or not v6only)
    # A host name may turn out to be an IPv6 address, so only what looks like an IPv4 address counts.
    return a.host in {"", "0.0.0.0"} and b.kind == "inet" and b.host.replace(".", "0").isdecimal()


def _reuse_port(values: Values) -> Iterator[str]:
    bind = values["bind"]
    texts = (bind,) if isinstance(bind, str) else bind
    if values["reuse_port"] and not any(parse(text).kind in {"inet", "inet6"} for text in texts):
        yield "reuse_port: True has no use without a TCP address in bind; leave it out"


def _takeover(values: Values) -> Iterator[str]:
    if values["takeover"] and not values["reuse_port"]:
        yield "takeover: two servers can share a port only with reuse_port; set it here, and in the predecessor"


def _slow_log(values: Values) -> Iterator[str]:
    if values["slow_log"] and not values["timeout"]:
        yield f"slow_log: {values['slow_log']:g} is a part of timeout, and there is none; give timeout as well"


def _scale_queue_time(values: Values) -> Iterator[str]:
    if values["scale_queue_time"] and not (values["min_workers"] or values["max_workers"]):
        yield (
            f"scale_queue_time: {values['scale_queue_time']:g} has no use while the number of workers is fixed; give "
            "max_workers as well"
        )


def _of_mold(name: str, without: object) -> Callable[[Values], Iterator[str]]:
    def rule(values: Values) -> Iterator[str]:
        if values[name] != without and not values["preload"]:
            yield f"{name}: {values[name]!r} has no use without preload; give preload as well"

    return rule


def _refork_after(values: Values) -> Iterator[str]:
    counts, most = values["refork_after"], values["max_requests"]
    if most and counts and counts[0] > most + values["max_requests_jitter"]:
        yield f"refork_after: no worker serves {counts[0]} with max_requests ({most}); give {most} or less"


def _beside(name: str, other: str) -> Callable[[Values], Iterator[str]]:
    def rule(values: Values) -> Iterator[str]:
        if values[name] and not values[other]:
            yield f"{name}: {values[name]!r} has no use without {other}; give {other} as well"

    return rule


def _streams(name: str, what: str, off: str) -> Callable[[Values], Iterator[str]]:
    def rule(values: Values) -> Iterator[str]:
        bind = values["bind"]
        for text in (bind,) if isinstance(bind, str) else bind:
            if values[name] != off and parse(text).type == socket.SOCK_SEQPACKET:
                yield f"{name}: {what} needs a stream, and {text!r} has packets; leave one of them out"

    return rule


RULES: Final[tuple[tuple[tuple[str, ...], Callable[[Values], Iterator[str]]], ...]] = (
    (("bind", "v6only"), _addresses),
    (("reuse_port", "bind"), _reuse_port),
    (("min_workers", "max_workers", "workers"), _workers),
    (("max_requests_jitter", "max_requests"), _jitter("max_requests")),
    (("max_age_jitter", "max_age"), _jitter("max_age")),
    (("backoff_initial", "backoff_max"), _backoff),
    (("takeover", "reuse_port"), _takeover),
    (("slow_log", "timeout"), _slow_log),
    (("scale_queue_time", "min_workers", "max_workers"), _scale_queue_time),
    (("warmup", "preload"), _of_mold("warmup", ())),
    *(((name, "preload"), _of_mold(name, default)) for name, default in OF_MOLD.items()),
    (("refork_after", "max_requests", "max_requests_jitter"), _refork_after),
    (("keyfile", "certfile"), _beside("keyfile", "certfile")),
    (("ca_certs", "certfile"), _beside("ca_certs", "certfile")),
    (("agent_request_time", "agent_bind"), _beside("agent_request_time", "agent_bind")),
    (("certfile", "bind"), _streams("certfile", "TLS", "")),
    (("proxy_protocol", "bind"), _streams("proxy_protocol", "a header", "off")),
)
"""Each rule behind the names of the settings it looks at; it runs only where all of these are good by themselves."""


class Problem(NamedTuple):
    """Why a configuration can't be used.

    Attributes:
        names: The settings concerned, the one to change first.
        text: One line with name, value and remedy.
    """

    names: tuple[str, ...]
    text: str


def examine(
    fields: Mapping[str, Field], given: Mapping[str, object], bad: Collection[str]
) -> tuple[dict[str, Any], list[Problem]]:
    """Check values against their types and bounds, and against each other.

    Args:
        fields: All settings there are, by their names. Rules about others don't apply.
        given: Values by name; settings that it doesn't name have their defaults.
        bad: Names of settings that are known to be wrong already: no rule that needs one of these is applied.

    Returns:
        The values in their proper types, those of the good settings; and everything that is wrong.
    """
    values: dict[str, Any] = {}
    problems = [Problem((name,), _unknown(name, fields)) for name in given if name not in fields]
    for field in fields.values():
        try:
            values[field.name] = field.check(given.get(field.name, field.default))
        except ValueError as error:
            problems.append(Problem((field.name,), str(error)))
    good = values.keys() - set(bad)
    for names, rule in RULES:
        if good.issuperset(names):
            problems.extend(Problem(names, text) for text in rule(values))
    return values, problems


def settle(settings: object, fields: Mapping[str, Field]) -> None:
    """Check a table of settings that is being made, and give its values their proper types.

    Args:
        settings: The table.
        fields: Its rows, by their names.

    Raises:
        SettingsError: With all problems at once.
    """
    values, problems = examine(fields, {name: getattr(settings, name) for name in fields}, ())
    if problems:
        raise SettingsError(problem.text for problem in problems)
    vars(settings).update(values)


def refuse_loop(name: str, settings: Any, *, handshakes: bool) -> None:
    """Refuse what only the usual loop can do, where a worker has one of its own.

    Args:
        name: The worker's class.
        settings: Of the server.
        handshakes: Whether it leaves TLS to the usual loop.

    Raises:
        SettingsError: There is such a setting.
    """
    if settings.threads > 1:
        raise SettingsError(f"threads: {name} has a loop of its own, which serves as it will; leave it out")
    if settings.gc == "idle":
        raise SettingsError(f"gc: nobody knows when {name}, which has a loop of its own, is idle; leave it out")
    if settings.certfile and handshakes:
        raise SettingsError(f"certfile: {name} has a loop of its own, which would serve plain text; leave it out")


def _unknown(name: str, fields: Mapping[str, Field]) -> str:
    return f"{name}: is not a setting; {did_you_mean(name, fields, 'prefork serve --help lists them all')}"
