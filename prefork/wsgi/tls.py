"""A connection under TLS as the server uses it, with the patience of a plain one."""

from __future__ import annotations

import select
import socket
import ssl
from typing import Any, ClassVar

from prefork.tls import HandshakeError, reason
from prefork.wsgi.channel import Channel, Pace
from prefork.wsgi.refusal import ClientGoneError, RequestError


class TLSChannel(Channel):
    """A connection under TLS. Takes over the socket: `close` closes it.

    Args:
        connection: An accepted stream socket.
        pace: How long its client may make us wait.
        context: From `prefork.tls.context_of`.

    Raises:
        HandshakeError: The connection is gone already.
    """

    __slots__ = ("_tls",)

    can_sendfile: ClassVar[bool] = False
    _flags: ClassVar[int] = 0  # a TLS socket takes none; it is made non-blocking

    def __init__(self, connection: socket.socket, pace: Pace, context: ssl.SSLContext) -> None:
        try:
            connection.setblocking(False)
            connection.getpeername()  # wrap_socket() meets the failure of this too, and forgets to close its socket
            self._tls = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        except OSError as error:
            raise HandshakeError(reason(error)) from error
        super().__init__(self._tls, pace)

    def handshake(self) -> dict[str, Any]:
        """Agree on keys, before `deadline`.

        Returns:
            What mod_ssl tells an application of the connection, under the same names.

        Raises:
            HandshakeError: The client is too slow, speaks something else, or there is nothing that both speak.
        """
        try:
            while True:
                try:
                    self._tls.do_handshake()
                    break
                except OSError as error:
                    self._block(error, select.POLLIN)
        except (RequestError, ClientGoneError) as error:
            raise HandshakeError(str(error)) from error
        cipher = self._tls.cipher()
        environ: dict[str, Any] = {"HTTPS": "on", "SSL_PROTOCOL": self._tls.version() or ""}
        if cipher is not None:
            environ["SSL_CIPHER"] = cipher[0]
        certificate = self._tls.getpeercert(binary_form=True)
        if certificate is not None:
            environ["SSL_CLIENT_VERIFY"] = "SUCCESS"
            environ["SSL_CLIENT_CERT"] = ssl.DER_cert_to_PEM_cert(certificate)
            environ["SSL_CLIENT_S_DN"] = _distinguished_name(self._tls.getpeercert() or {})
        return environ

    def unread(self) -> bool:
        """Whether bytes wait that nobody has received; under TLS the client's last record always may."""
        return False

    def close(self) -> None:
        """Tell the client that this is the end and no cut (close_notify, RFC 8446, 6.1), and close."""
        try:
            self._tls.unwrap()
        except (OSError, ValueError):
            pass  # it does not wait for the client to say the same
        self._tls.close()

    def _end_sending(self) -> None:
        try:
            self._tls.unwrap()
        except OSError:
            pass
        socket.socket.shutdown(self._tls, socket.SHUT_WR)

    def _discard(self, size: int) -> bytes:
        """Receive below TLS, since what comes is of no interest and may be no TLS either."""
        while True:
            try:
                return socket.socket.recv(self._tls, size)
            except OSError as error:
                self._block(error, select.POLLIN)

    def _block(self, error: OSError, event: int) -> None:
        if isinstance(error, ssl.SSLWantReadError):
            self._wait(select.POLLIN)
        elif isinstance(error, ssl.SSLWantWriteError):
            self._wait(select.POLLOUT)
        elif isinstance(error, ssl.SSLError):
            raise ClientGoneError(reason(error)) from error
        else:
            super()._block(error, event)


def _distinguished_name(certificate: Any) -> str:
    """The subject of a certificate, as ``getpeercert()`` gives it, in one line (RFC 4514, without its escapes)."""
    return ",".join(f"{key}={value}" for part in reversed(certificate.get("subject", ())) for key, value in part)
