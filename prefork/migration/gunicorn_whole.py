"""What gunicorn's settings come to together, once each has been told: defaults that are not ours, and combinations.

Each function is given a `Teller` with what was told so far. Pure.
"""

from __future__ import annotations

from typing import Final

from prefork.migration.gunicorn_values import THREADS, is_sync, names_of, threads_of
from prefork.migration.retelling import Origin, Teller, whole

_DEFAULT: Final = "gunicorn's default"


def settle_unix_mode(teller: Teller) -> None:
    """A unix socket of gunicorn's is everybody's unless umask says otherwise; so it is here, when there is one."""
    bind = teller.values.get("bind")
    texts = () if bind is None else (bind.value,) if isinstance(bind.value, str) else bind.value
    if any(text.startswith("unix:") for text in texts):
        given = teller.given.get("umask")
        mask = 0 if given is None or given.value is None else whole(given.value)
        teller.put("socket_mode", 0o777 & ~mask, "gunicorn's umask of 0" if given is None else given.origin)


def settle_script_name(teller: Teller, variable: str) -> None:
    """The WSGI workers of gunicorn take the path under which they are mounted from the environment."""
    name = teller.environment.get("SCRIPT_NAME", variable).rstrip("/")
    if name and teller.command == "wsgi" and "script_name" not in teller.values:
        teller.put("script_name", name, "SCRIPT_NAME")


def settle_times(teller: Teller) -> None:
    """What gunicorn does where nobody says otherwise, and prefork's commands do not: times, and whose time it is."""
    teller.values.setdefault("log_timezone", Origin("local", _DEFAULT))
    if teller.command == "serve":
        teller.values.setdefault("timeout", Origin(30, _DEFAULT))
    limit = Origin(30, _DEFAULT) if "timeout" not in teller.values else teller.values["timeout"]
    if limit.value and (names_of(teller.value("worker_class")) & THREADS or threads_of(teller) > 1) and is_sync(teller):
        teller.remark(
            f"timeout = {limit.value} ({limit.origin}): gthread lets a request take longer; here that is the limit of "
            "each, so give the time of your slowest, or 0",
            differs=True,
        )


def settle_forwarded(teller: Teller) -> None:
    """A trusted proxy is believed by gunicorn what the scheme is; here, whose request it is as well."""
    if teller.command != "wsgi":
        return
    allowed = teller.values.get("forwarded_allow_ips", Origin("127.0.0.1,::1", _DEFAULT))
    everybody, given = "*" in str(allowed.value), "forwarded_allow_ips" in teller.values
    if allowed.value or not allowed.origin:
        teller.remark(
            f"forwarded_allow_ips = {allowed.value!r} ({allowed.origin}): from these REMOTE_ADDR is the address in "
            "X-Forwarded-For, where gunicorn leaves the proxy's"
            + ("; with * whatever a client writes there is believed, so name the proxies, or private" * everybody)
            + (
                "; such fields of others don't reach the application unless PREFORK_FORWARDED=keep"
                * (given and not everybody)
            ),
            differs=everybody,
        )


def settle_hooks(teller: Teller) -> None:
    """Two hooks are called at another moment, or as somebody else."""
    if "when_ready" in teller.given:
        teller.remark(
            f"when_ready ({teller.given['when_ready'].origin}): it is called when the first workers serve, where "
            "gunicorn calls it before it forks them; what they are to inherit belongs into on_starting",
            differs=True,
        )
    if "post_fork" in teller.given and "user" in teller.values:
        teller.remark(
            f"post_fork ({teller.given['post_fork'].origin}): it is called as the user of the workers, where gunicorn "
            "calls it before it changes to that",
            differs=True,
        )


def settle(teller: Teller, script_name: str) -> None:
    """Do all of it.

    Args:
        teller: With what was told.
        script_name: The variable SCRIPT_NAME.
    """
    settle_unix_mode(teller)
    settle_script_name(teller, script_name)
    settle_times(teller)
    settle_forwarded(teller)
    settle_hooks(teller)
    teller.settle_use()
    teller.settle_reach()
