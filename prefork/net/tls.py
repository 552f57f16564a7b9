"""TLS on accepted connections: the server's context, a handshake that does not wait for ever, an end that both know.

The context is made in the master, before it listens and forks: the key is read as the user who may, and the workers
share the keys of the session tickets, so that a client resumes with any of them. The handshake happens in the worker.
OpenSSL makes those keys with each context, and Python can't carry them into another: so a reload that finds the same
files keeps the context, or all clients would pay for whole handshakes whenever the application changes.

Who wants no TLS pays nothing for it: `ssl` is imported when a certificate is asked for.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import math
import re
import stat
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, Protocol

from prefork.errors import SettingsError
from prefork.net.lingering import ours
from prefork.system import content
from prefork.system.forks import HERE, end_for_all
from prefork.system.natives import os, select, socket
from prefork.system.need import told
from prefork.system.peer import format_peer
from prefork.system.throttle import Log, Throttle

if TYPE_CHECKING:
    import ssl

logger = logging.getLogger("prefork")

HANDSHAKE: Final = 10.0
"""Seconds that a whole handshake may take when ``io_timeout`` sets no limit: no client needs a worker for longer."""


_PATIENCE: Final = 1.0  # seconds for which a reload waits for who writes into a FIFO, and all else in the master too

DEPARTED: Final = "the client has gone"
"""Why there is no TLS with who did not wait for it, for the log."""

# RFC 8446, 5.1 and 4: a record of a handshake has the number of its kind first, and behind five bytes what it is.
_RECORD: Final = b"\x16"
_CLIENT_HELLO: Final = b"\x01"
_BEGINNING: Final = 6
_SOURCE: Final = re.compile(r"^\[[A-Z0-9_: ]+\] | \(_ssl\.c:[0-9]+\)$")


class TLSOptions(Protocol):
    """Where a server's key lies and what it asks of clients, by the names of the settings."""

    @property
    def certfile(self) -> str:
        """The certificate and what leads to its root, PEM; "" for no TLS."""

    @property
    def keyfile(self) -> str:
        """The key, PEM; "" when it lies in ``certfile``."""

    @property
    def ca_certs(self) -> str:
        """Who may have signed clients' certificates, PEM; "" when none is asked for."""

    @property
    def ssl_minimum_version(self) -> str:
        """The oldest version that is spoken: "tlsv1.2" or "tlsv1.3"."""


class Goodbye(enum.Enum):
    """What became of a close_notify."""

    SAID = "said"
    """Or there is nobody to hear it."""
    UNHEARD = "unheard"
    """It was said, and there are records that nobody has read: a close would be a reset."""
    NO_ROOM = "no room"
    """Nothing of it has been sent yet."""


class HandshakeError(ConnectionError):
    """There is no TLS with a client."""


def context_of(options: TLSOptions, patience: float = math.inf) -> ssl.SSLContext | None:
    """The context for ``certfile``, ``keyfile``, ``ca_certs`` and ``ssl_minimum_version``. MASTER.

    Args:
        options: Where these are.
        patience: For how many seconds who writes into one that is a FIFO is waited for.

    Returns:
        The context; None without a ``certfile``.

    Raises:
        SettingsError: A file can't be read, or is not what it should be.
    """
    if not options.certfile:
        return None
    import ssl

    from prefork.net.plain_http import LoopContext

    contents = _Contents(options, patience)
    context = LoopContext(ssl.PROTOCOL_TLS_SERVER)
    versions = {"tlsv1.2": ssl.TLSVersion.TLSv1_2, "tlsv1.3": ssl.TLSVersion.TLSv1_3}
    context.minimum_version = versions[options.ssl_minimum_version]
    try:
        with contents.named("certfile") as certfile, contents.named("keyfile") as keyfile:
            # A key with a passphrase would make OpenSSL ask on the terminal, where nobody may be.
            context.load_cert_chain(certfile, keyfile or None, password=lambda: "")
    except (OSError, ValueError) as error:
        names = " and ".join(filter(None, (options.certfile, options.keyfile)))
        raise SettingsError(f"certfile: {names}: {_told(error, 'give a PEM certificate and its key')}") from error
    if options.ca_certs:
        try:
            with contents.named("ca_certs") as ca_certs:
                context.load_verify_locations(ca_certs)
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"ca_certs: {options.ca_certs}: {_told(error, 'give a file of PEM certificates')}"
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED
    context.made_of = contents.digest()
    return context


def renewed(context: ssl.SSLContext | None, options: TLSOptions) -> ssl.SSLContext | None:
    """The context with the files as they are now: certificates are short-lived. MASTER.

    Args:
        context: The one in use. It stays when the files are what they were, so that clients can resume the sessions
            that they have; and when they are of no use, which is logged.
        options: Where the files are named.

    Another certificate is never loaded into the context in use, which has a place for one of each kind of key: next to
    a new one of RSA an old one of ECDSA would go on being shown.
    """
    try:
        made = context_of(options, _PATIENCE)
    except SettingsError as error:
        logger.error("the certificate in use stays: %s", error)
        return context
    known: bytes = getattr(context, "made_of", b"")
    return context if known and known == getattr(made, "made_of", b"") else made


class _Contents:
    """What the files of a context hold. Each is read once, and OpenSSL is given what was read.

    Args:
        options: Where they are.
        patience: As for `context_of`.
    """

    def __init__(self, options: TLSOptions, patience: float) -> None:
        self._options = options
        self._patience = patience
        self._held: dict[str, bytes] = {}

    @contextlib.contextmanager
    def named(self, setting: str) -> Iterator[str]:
        """A name by which OpenSSL reads what the file of a setting holds, during the block; "" for none.

        Raises:
            OSError: It can't be read.
        """
        path: str = getattr(self._options, setting)
        if not path:
            yield ""
            return
        held = self._held[setting] = content.read(path, self._patience)
        copy = os.memfd_create("prefork-tls", os.MFD_CLOEXEC)
        try:
            view = memoryview(held)
            while view:
                view = view[os.write(copy, view) :]
            own = f"/proc/self/fd/{copy}"
            yield own if os.path.exists(own) else path
        finally:
            os.close(copy)

    def digest(self) -> bytes:
        """Of all, which tells nothing of the key; b"" where a second look would find nothing."""
        import hashlib

        found = hashlib.sha256()
        for setting in ("certfile", "keyfile", "ca_certs"):
            path: str = getattr(self._options, setting)
            try:
                if path and not stat.S_ISREG(os.stat(path).st_mode):
                    return b""
            except OSError:
                return b""
            found.update(hashlib.sha256(self._held.get(setting, b"")).digest())
        return found.digest()


def reason(error: Exception) -> str:
    """Why something failed, in OpenSSL's own words, without the library's name and the line of its source."""
    if isinstance(error, TimeoutError):
        return "the client was too slow"
    said = getattr(error, "reason", None)
    if isinstance(said, str) and said:
        return said.lower().replace("_", " ")
    return _SOURCE.sub("", getattr(error, "strerror", None) or str(error))


def _told(error: Exception, otherwise: str) -> str:
    if isinstance(error, OSError) and not hasattr(error, "reason"):  # as OpenSSL's have, be it None
        return told(error, otherwise)
    return f"{reason(error)}; {otherwise}"


class Behind:
    """WORKER. A handle() that is given connections on which both sides have agreed on keys.

    Called as it, with a connection as accept(2) gave it, which it takes over and closes.

    Args:
        handle: Called with an `ssl.SSLSocket` and the peer's address.
        context: From `context_of`.
        log: Where a handshake that came to nothing is told.
        waiting: Told before a handshake how many seconds it may last at most, and 0 when it is over, so that a limit of
            the handler's time can be put off.
    """

    def __init__(
        self,
        handle: Callable[[socket.socket, Any], object],
        context: ssl.SSLContext,
        log: Log,
        waiting: Callable[[float], None] | None = None,
    ) -> None:
        self._handle = handle
        self._context = context
        self._throttle = Throttle(log)
        self._waiting = waiting

    def __call__(self, connection: socket.socket, address: Any) -> None:
        """Serve one connection.

        Raises:
            HandshakeError: There is no TLS with the client; it has been told in the log.
            BaseException: What the handler raises.
        """
        waiting = self._waiting
        if waiting is not None:
            waiting(connection.gettimeout() or HANDSHAKE)
        try:
            secured = shake_hands(connection, self._context)
        except HandshakeError as error:
            self._throttle.tell(logging.INFO, str(error), "no TLS with %s: %s", format_peer(address), error)
            raise
        if waiting is not None:
            waiting(0.0)
        whole = False
        try:
            self._handle(secured, address)
            whole = True
        finally:
            if not HERE.foreign:  # else the parent has the connection as well, and a goodbye would be said for both
                close(secured, whole=whole)


def shake_hands(connection: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Agree on keys with a client, within the connection's timeout or else `HANDSHAKE` seconds in all. WORKER.

    Args:
        connection: As accept(2) gave it; it is taken over, whatever happens.
        context: From `context_of`.

    Returns:
        What takes its place, with the same timeout.

    Raises:
        HandshakeError: The client is too slow, gone, speaks something else, or there is nothing that both speak.
    """
    if departed(connection):
        connection.close()
        raise HandshakeError(DEPARTED)
    timeout = connection.gettimeout()
    try:
        connection.settimeout(timeout or HANDSHAKE)
        connection.getpeername()  # wrap_socket() meets the failure of this too, and forgets to close its socket
        secured = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
    except OSError as error:
        connection.close()
        raise HandshakeError(reason(error)) from error
    try:
        secured.do_handshake()
        secured.settimeout(timeout)
    except OSError as error:
        from prefork.net import plain_http

        why = reason(error)
        if plain_http.sent_on(secured, error):
            plain_http.send(secured)
            why = plain_http.SAID
        ours.take(secured)  # closed with data unread, it would be reset, and the alert that says why be lost
        raise HandshakeError(why) from error
    except BaseException:
        secured.close()
        raise
    return secured


def departed(connection: socket.socket) -> bool:
    """Whether a client has ended its side behind its first word of a handshake, or reset all. WORKER; never waits.

    The rest of its part is still to come, and can't any more: our part, which costs as much as a request, would be in
    vain. That holds for who only ends his side (shutdown(2)), too. Who has sent something else and ended his side is
    not meant, for he waits for an answer; nor who has sent nothing, which costs little.

    Args:
        connection: As accept(2) gave it, or behind the header of a proxy.
    """
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    if not poll.poll(0):
        return False
    try:
        begun = connection.recv(_BEGINNING, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        return True
    return begun[:1] == _RECORD and begun[5:] == _CLIENT_HELLO


def close(secured: ssl.SSLSocket, *, whole: bool, heard: bool = True) -> None:
    """Close a connection, whatever became of it, without waiting for its client. WORKER.

    Args:
        secured: The connection; it is taken over.
        whole: Whether all was said that was to be said: then the client is told that this is the end and no cut
            (close_notify, RFC 8446, 6.1). It is not waited for to say the same.
        heard: Whether the client has said all that it had to say, as far as is known. If not, the connection lingers
            (`prefork.net.lingering`), as it does when records turn up that nobody has read or there is no room for
            close_notify yet.
    """
    if whole and secured.fileno() >= 0:
        goodbye = say_goodbye(secured)
        if goodbye is Goodbye.NO_ROOM:
            ours.take(secured, lambda: say_goodbye(secured) is not Goodbye.NO_ROOM)
            return
        if goodbye is Goodbye.UNHEARD or not heard:
            ours.take(secured)
            return
    if HERE.copied:
        end_for_all(secured)
    secured.close()
    if secured.fileno() >= 0:
        # The handler keeps a file on it (makefile), and the client would wait for the end for as long.
        os.close(secured.detach())


def say_goodbye(secured: ssl.SSLSocket) -> Goodbye:
    """Send close_notify, if there is room for it. WORKER."""
    import ssl

    try:
        secured.settimeout(0.0)
        secured.unwrap()
    except ssl.SSLWantWriteError:
        return Goodbye.NO_ROOM
    except ssl.SSLWantReadError:
        pass  # the client's own goodbye is still to come
    except ssl.SSLError as error:
        if error.reason == _UNREAD:
            return Goodbye.UNHEARD
    except (OSError, ValueError):
        pass  # it is gone, or the handler unwrapped
    return Goodbye.SAID


_UNREAD: Final = "APPLICATION_DATA_AFTER_CLOSE_NOTIFY"
