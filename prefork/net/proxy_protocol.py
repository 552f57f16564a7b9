"""The PROXY protocol: what a proxy writes before a connection's first byte to say whose connection it is. Pure.

Version 1 is a line of text, version 2 is binary and may say more of the client in what are called TLVs: type, length,
value. Source of all of it: "The PROXY protocol, Versions 1 & 2" (haproxy.org, doc/proxy-protocol.txt), sections 2.1 to
2.2.8. A receiver never guesses whether there is a header: where one is expected and none comes, the connection ends.

The addresses are as accept(2) would have given them, so that nobody behind needs to know where they come from.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from prefork.system.natives import os, socket
from prefork.system.remembered import Remembered

V1: Final = 1
V2: Final = 2

LONGEST_V1: Final = 107
"""Bytes of the longest line of version 1, its end included."""

_SIGNATURE_V1: Final = b"PROXY "
_SIGNATURE_V2: Final = b"\r\n\r\n\0\r\nQUIT\n"
_HEAD_V2: Final = struct.Struct("!12sBBH")
_MOST_PORT: Final = 65535
_ZERO: Final = ord("0")
_MOST_REMEMBERED: Final = 1024  # of each kind
_AF_INET, _AF_INET6 = int(socket.AF_INET), int(socket.AF_INET6)  # an enum's member costs as much as the call

_LOCAL: Final = 0x20
_PROXY: Final = 0x21
_INET, _INET6, _UNIX, _STREAM, _DATAGRAM = 1, 2, 3, 1, 2
_PAIRS: Final = {_INET: struct.Struct("!4s4sHH"), _INET6: struct.Struct("!16s16sHH"), _UNIX: struct.Struct("!108s108s")}
ALPN: Final = 0x01
AUTHORITY: Final = 0x02
CRC32C: Final = 0x03
UNIQUE_ID: Final = 0x05
SSL: Final = 0x20
NETNS: Final = 0x30
AWS: Final = 0xEA

_TLV: Final = struct.Struct("!BH")
_SSL: Final = struct.Struct("!BI")
_SSL_VERSION, _SSL_CN, _SSL_CIPHER = 0x21, 0x22, 0x23
_CLIENT_SSL, _CLIENT_CERT = 0x01, 0x06
_AWS_VPCE: Final = 0x01
_MOST_UNIQUE: Final = 128


class ProxyProtocolError(ConnectionError):
    """There is no header at the beginning of a connection, or it is none that can be believed."""


class ProxyGoneError(ProxyProtocolError):
    """A connection has ended without a header, as those do that only try whether somebody listens."""


class ProxySSL(NamedTuple):
    """What the proxy says of TLS between the client and itself.

    Attributes:
        secured: whether the client has spoken TLS.
        certified: whether it has shown a certificate, on this connection or in this session.
        verified: whether that has been verified.
        version: of TLS, as "TLSv1.3"; "" where it isn't told, as below.
        common_name: of the certificate.
        cipher: which is used.
    """

    secured: bool
    certified: bool
    verified: bool
    version: str
    common_name: str
    cipher: str


class ProxyHeader(NamedTuple):
    """One header.

    Attributes:
        version: of the protocol, 1 or 2.
        source: the client's address, as accept(2) gives one; None where the proxy speaks for itself (LOCAL) or doesn't
            know (UNKNOWN, UNSPEC): then it is the connection's own.
        tlvs: types and values in their order. NOOP and the checksum are among them.
        raw: the header as it came.
    """

    version: int
    source: Any
    tlvs: tuple[tuple[int, bytes], ...]
    raw: bytes

    def tlv(self, kind: int) -> bytes | None:
        """The value of the first TLV of a type; None when there is none."""
        return next((value for found, value in self.tlvs if found == kind), None)

    @property
    def destination(self) -> Any:
        """The address that the client has connected to; None where the source is None."""
        if self.source is None:
            return None
        if self.version == V1:
            _, word, _, to, _, port = self.raw.split(b" ")
            host = _HOSTS[word][to]
            return (host, int(port)) if word == b"TCP4" else (host, int(port), 0, 0)
        family = self.raw[13] >> 4
        if family == _UNIX:
            return _unix(_PAIRS[family].unpack_from(self.raw, _HEAD_V2.size)[1])
        _, host, _, port = _PAIRS[family].unpack_from(self.raw, _HEAD_V2.size)
        return _inet(host, port) if family == _INET else _inet6(host, port)

    @property
    def alpn(self) -> str:
        """The protocol that the client and the proxy have agreed on; "" where it isn't told, as below."""
        return _text(self.tlv(ALPN))

    @property
    def authority(self) -> str:
        """The host that the client has asked for, by SNI most often."""
        return _text(self.tlv(AUTHORITY))

    @property
    def unique_id(self) -> bytes:
        """What the proxy calls the connection; up to 128 bytes, b"" where it isn't told."""
        return self.tlv(UNIQUE_ID) or b""

    @property
    def netns(self) -> str:
        """The network namespace in which the proxy has accepted."""
        return _text(self.tlv(NETNS))

    @property
    def aws_vpce_id(self) -> str:
        """The id of the AWS VPC endpoint through which the client came."""
        value = self.tlv(AWS) or b""
        return _text(value[1:]) if value[:1] == bytes([_AWS_VPCE]) else ""

    @property
    def ssl(self) -> ProxySSL | None:
        """What is said of TLS; None where nothing is."""
        value = self.tlv(SSL) if self.tlvs else None
        if value is None:
            return None
        client, verify = _SSL.unpack_from(value)
        told = dict(_tlvs(value, _SSL.size))
        certified = bool(client & _CLIENT_CERT)
        return ProxySSL(
            bool(client & _CLIENT_SSL),
            certified,
            certified and not verify,
            *(_text(told.get(kind)) for kind in (_SSL_VERSION, _SSL_CN, _SSL_CIPHER)),
        )


def read_header(data: bytes, v1: bool = True, v2: bool = True) -> ProxyHeader | None:
    """Read the header with which a connection begins.

    Args:
        data: What has come so far; what follows the header does no harm.
        v1: Whether version 1 is spoken here.
        v2: Whether version 2 is.

    Returns:
        The header; None while it has not all come: then all of ``data`` belongs to it.

    Raises:
        ProxyProtocolError: It is none that is spoken here, or breaks a rule of the specification that asks receivers
            to end the connection.
    """
    if v2:
        usual = _USUAL.get(data[:16])
        if usual is not None:
            unpack, end, address = usual
            if len(data) < end:
                return None
            return _new(ProxyHeader, (V2, address(*unpack(data, 16)), (), data[:end]))
        if data[:12] == _SIGNATURE_V2:
            if len(data) < _HEAD_V2.size:
                return None
            end = _HEAD_V2.size + (data[14] << 8 | data[15])
            return _parse_v2(data[:end]) if end <= len(data) else None
    if v1 and data[:6] == _SIGNATURE_V1:
        end = data.find(b"\n") + 1
        if 0 < end <= LONGEST_V1:
            return _parse_v1(data[:end])
        if len(data) >= LONGEST_V1:
            raise ProxyProtocolError("a line that is too long")
        return None
    if (v1 and _SIGNATURE_V1.startswith(data)) or (v2 and _SIGNATURE_V2.startswith(data)):
        return None
    raise ProxyProtocolError("something else in place of the header")


_new: Final = tuple.__new__  # what ProxyHeader() does, without a call that takes as long as all else


def _parse_v2(header: bytes) -> ProxyHeader:
    """One of version 2 with TLVs, or that names no peer on a stream."""
    _, command, kind, _ = _HEAD_V2.unpack_from(header)
    if command == _LOCAL:
        return ProxyHeader(V2, None, (), header)  # whatever else is in it is to be passed over
    if command != _PROXY:
        raise ProxyProtocolError("a version or a command that is none")
    family, transport = kind >> 4, kind & 15
    if family > _UNIX or transport > _DATAGRAM:
        raise ProxyProtocolError("a family or a transport that is none")
    if not family:
        return ProxyHeader(V2, None, (), header)
    end = _HEAD_V2.size + _PAIRS[family].size
    if end > len(header):
        raise ProxyProtocolError("addresses that are cut short")
    tlvs = _checked(header, end)
    if transport != _STREAM:
        return ProxyHeader(V2, None, tlvs, header)
    unpack, address = _SOURCES[family]
    return ProxyHeader(V2, address(*unpack(header, _HEAD_V2.size)), tlvs, header)


def _parse_v1(line: bytes) -> ProxyHeader:
    words = line.split(b" ")
    if words[1] == b"UNKNOWN" or words[1] == b"UNKNOWN\r\n":
        if line[-2:] != b"\r\n" or b"\r" in line[:-2]:
            raise ProxyProtocolError("a line that ends otherwise")
        return ProxyHeader(V1, None, (), line)
    try:
        _, family, host, to, port, last = words
        hosts = _HOSTS[family]
        _ = hosts[to], _LAST_PORTS[last]
        number = int(port)
        # In another form a number may be meant otherwise: in octal, say.
        if number > _MOST_PORT or not port.isdigit() or (port[0] == _ZERO and len(port) > 1):
            raise ValueError(port)
        source = (hosts[host], number) if hosts is _HOSTS4 else (hosts[host], number, 0, 0)
    except (OSError, ValueError, KeyError):
        raise ProxyProtocolError("a line that is none") from None
    return _new(ProxyHeader, (V1, source, (), line))


def _host4(word: bytes) -> str:
    """An IPv4 address of a line; OSError or ValueError when it is none."""
    text = word.decode("ascii")
    # Stricter than inet_aton(3), which takes octal and hexadecimal numbers: what it takes is in its only form.
    socket.inet_pton(_AF_INET, text)
    return text


def _host6(word: bytes) -> str:
    """An IPv6 address, in the form in which the kernel gives it; likewise."""
    return socket.inet_ntop(_AF_INET6, socket.inet_pton(_AF_INET6, word.decode("ascii")))


def _last_port(word: bytes) -> int:
    """The port at the end of a line; ValueError when it is none."""
    port = int(word)
    if not 0 <= port <= _MOST_PORT or b"%d\r\n" % port != word:
        raise ValueError(word)
    return port


_HOSTS4: Final = Remembered(_host4, most=_MOST_REMEMBERED)
_HOSTS6: Final = Remembered(_host6, most=_MOST_REMEMBERED)
_LAST_PORTS: Final = Remembered(_last_port, most=_MOST_REMEMBERED)
_HOSTS: Final = {b"TCP4": _HOSTS4, b"TCP6": _HOSTS6}
_PACKED4: Final = Remembered[bytes, str](socket.inet_ntoa, most=_MOST_REMEMBERED)
_PACKED6: Final = Remembered(functools.partial(socket.inet_ntop, _AF_INET6), most=_MOST_REMEMBERED)
REMEMBERED: Final = (_HOSTS4, _HOSTS6, _LAST_PORTS, _PACKED4, _PACKED6)
"""What of earlier headers is known in this process."""


def _inet(packed: bytes, port: int) -> tuple[str, int]:
    return _PACKED4[packed], port


def _inet6(packed: bytes, port: int) -> tuple[str, int, int, int]:
    return _PACKED6[packed], port, 0, 0


def _unix(name: bytes) -> str | bytes:
    if name[0]:
        return os.fsdecode(name.partition(b"\0")[0])
    return name.rstrip(b"\0") or ""  # in the abstract namespace, or of no name (unix(7))


_SOURCES: Final[dict[int, tuple[Callable[[bytes, int], tuple[Any, ...]], Callable[..., Any]]]] = {
    _INET: (struct.Struct("!4s4xH").unpack_from, _inet),
    _INET6: (struct.Struct("!16s16xH").unpack_from, _inet6),
    _UNIX: (struct.Struct("!108s").unpack_from, _unix),
}
"""By family: how the source is read, and what is made of it."""

_USUAL: Final = {
    _SIGNATURE_V2 + bytes([_PROXY, family << 4 | _STREAM, 0, _PAIRS[family].size]): (
        unpack,
        _HEAD_V2.size + _PAIRS[family].size,
        address,
    )
    for family, (unpack, address) in _SOURCES.items()
}
"""How a header of version 2 begins that has a stream's addresses and no TLVs; also where it ends."""


def _tlvs(data: bytes, at: int) -> list[tuple[int, bytes]]:
    """The TLVs from there to the end.

    Raises:
        ProxyProtocolError: They don't end where the header does.
    """
    found = []
    while at < len(data):
        if at + _TLV.size > len(data):
            raise ProxyProtocolError("a TLV that is cut short")
        kind, length = _TLV.unpack_from(data, at)
        at += _TLV.size + length
        if at > len(data):
            raise ProxyProtocolError("a TLV that is cut short")
        found.append((kind, data[at - length : at]))
    return found


def _checked(header: bytes, at: int) -> tuple[tuple[int, bytes], ...]:
    """The TLVs of a header, which are good."""
    found = tuple(_tlvs(header, at))
    for kind, value in found:
        if kind == CRC32C:
            _check_sum(header, at, value)
        elif kind == SSL:
            if len(value) < _SSL.size:
                raise ProxyProtocolError("a TLV that is cut short")
            _tlvs(value, _SSL.size)
        elif kind == UNIQUE_ID and len(value) > _MOST_UNIQUE:
            raise ProxyProtocolError("a unique id that is too long")
    return found


def _check_sum(header: bytes, at: int, value: bytes) -> None:
    """The checksum is that of the whole header with zeros in its place (2.2.3)."""
    if len(value) != 4:  # bytes of a CRC of 32 bits
        raise ProxyProtocolError("a checksum that is none")
    while header[at] != CRC32C:
        at += _TLV.size + (header[at + 1] << 8 | header[at + 2])
    at += _TLV.size
    if crc32c(b"".join((header[:at], bytes(4), header[at + 4 :]))) != int.from_bytes(value, "big"):
        raise ProxyProtocolError("a checksum that is not the header's")


def crc32c(data: bytes) -> int:
    """The checksum of RFC 4960, appendix B (Castagnoli)."""
    if not _TABLE:
        _TABLE.extend(_row(byte) for byte in range(256))
    table, crc = _TABLE, 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


_TABLE: Final[list[int]] = []  # filled when the first proxy sends a checksum


def _row(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
    return byte


def _text(value: bytes | None) -> str:
    """The text of a TLV, whatever bytes it has."""
    return (value or b"").decode("utf-8", "backslashreplace")
