"""A connection under TLS as the server uses it, with the patience of a plain one.

`ssl` is imported where it is used: who has a context has imported it, and who wants no TLS pays nothing for it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar, Final

from prefork.net.lingering import ours
from prefork.net.tls import HandshakeError, reason
from prefork.net.tls import close as close_secured
from prefork.system.natives import select, socket
from prefork.wsgi.channel import Channel, Pace
from prefork.wsgi.refusal import ClientGoneError, RequestError

if TYPE_CHECKING:
    import ssl

# What Python's long names are called in RFC 4514, 3; SN and GN as OpenSSL has them, and so mod_ssl and nginx.
_SHORT: Final = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "givenName": "GN",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "street",
    "surname": "SN",
    "userId": "UID",
}
# RFC 4514, 2.4
_ESCAPED: Final = re.compile(r'["+,;<>\\\0]|^[ #]| $')


class PlainHTTPError(HandshakeError):
    """Who should speak TLS has sent a plain request."""


class TLSChannel(Channel):
    """A connection under TLS. Takes over the socket: `close` closes it.

    Args:
        connection: An accepted stream socket.
        pace: How long its client may make us wait.
        context: From `prefork.net.tls.context_of`.

    Raises:
        HandshakeError: The connection is gone already.
    """

    __slots__ = ("_before", "_tls")

    can_sendfile: ClassVar[bool] = False
    _flags: ClassVar[int] = 0  # a TLS socket takes none; it is made non-blocking
    _counts: ClassVar[bool] = False  # OpenSSL says nothing before a record is there, or all is written

    def __init__(self, connection: socket.socket, pace: Pace, context: ssl.SSLContext) -> None:
        try:
            connection.setblocking(False)
            connection.getpeername()  # wrap_socket() meets the failure of this too, and forgets to close its socket
            self._tls = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        except OSError as error:
            raise HandshakeError(reason(error)) from error
        super().__init__(self._tls, pace)
        self._before = 0  # milliseconds that the handshake had waited for us, for which no request has come yet

    def handshake(self) -> None:
        """Agree on keys, before `deadline`. `environ` has what mod_ssl tells an application of it, in the same names.

        Raises:
            HandshakeError: The client is too slow, speaks something else, or there is nothing that both speak.
            PlainHTTPError: What it speaks is HTTP.
        """
        try:
            while True:
                try:
                    self._tls.do_handshake()
                    break
                except OSError as error:
                    self._block(error, select.POLLIN)
        except (RequestError, ClientGoneError) as error:
            from prefork.net import plain_http

            if plain_http.sent_on(self._tls, error.__cause__):
                raise PlainHTTPError(plain_http.SAID) from error
            raise HandshakeError(str(error)) from error
        cipher = self._tls.cipher()
        environ: dict[str, Any] = {"HTTPS": "on", "SSL_PROTOCOL": self._tls.version() or ""}
        if cipher is not None:
            environ["SSL_CIPHER"] = cipher[0]
        certificate = self._tls.getpeercert(binary_form=True)
        if certificate is not None:
            import ssl

            environ["SSL_CLIENT_VERIFY"] = "SUCCESS"
            environ["SSL_CLIENT_CERT"] = ssl.DER_cert_to_PEM_cert(certificate)
            environ["SSL_CLIENT_S_DN"] = _distinguished_name(self._tls.getpeercert() or {})
        self.environ |= environ

    def resume(self) -> None:
        """As `Channel.resume`; the first request has waited with the handshake before it."""
        super().resume()
        self.waited, self._before = self._before, 0

    def unasked(self) -> None:
        """As `Channel.unasked`."""
        self._before = self.waited

    @property
    def secured(self) -> socket.socket | None:
        """The socket that has taken the place of the one that was given."""
        return self._tls

    @property
    def buffered(self) -> bool:
        """Whether something waits that was received, and that the socket will not show again."""
        return bool(self.rest) or self._tls.pending() > 0

    def close(self) -> None:
        """Tell the client that this is the end and no cut, and close."""
        close_secured(self._tls, whole=True)

    def linger(self) -> None:
        """As `close`, and discard what still comes."""
        close_secured(self._tls, whole=True, heard=False)

    def reject(self, plain: bytes = b"") -> None:
        """Close when there is no TLS; the alert that says why must not be lost.

        Args:
            plain: What to send first, as it is.
        """
        if plain:
            from prefork.net import plain_http

            plain_http.send(self._tls, plain)
        ours.take(self._tls)

    def _block(self, error: OSError, event: int, *, elsewhere: bool = False) -> None:
        import ssl

        if isinstance(error, ssl.SSLWantReadError):
            self._wait(select.POLLIN, elsewhere=elsewhere)
        elif isinstance(error, ssl.SSLWantWriteError):
            self._wait(select.POLLOUT)
        elif isinstance(error, ssl.SSLError):
            raise ClientGoneError(reason(error)) from error
        else:
            super()._block(error, event, elsewhere=elsewhere)


def _distinguished_name(certificate: Any) -> str:
    """The subject of a certificate, as ``getpeercert()`` gives it, in one line (RFC 4514).

    Whoever signed it may have let its owner choose a name, which must not pass for several.
    """
    parts = reversed(certificate.get("subject", ()))
    return ",".join("+".join(f"{_SHORT.get(key, key)}={_escaped(value)}" for key, value in part) for part in parts)


def _escaped(value: str) -> str:
    return _ESCAPED.sub(_escape, value)


def _escape(match: re.Match[str]) -> str:
    return "\\00" if match[0] == "\0" else f"\\{match[0]}"
