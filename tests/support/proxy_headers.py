"""Headers of the PROXY protocol as a proxy writes them, and a second reading of its rules, to compare with."""

from __future__ import annotations

import ipaddress
import random
import socket
import struct
from typing import Any, Final

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"

Verdict = tuple[str, Any]
"""What becomes of what a connection begins with: ("more", None), ("no", None), or ("yes", (length, source))."""

MORE: Final[Verdict] = "more", None
NO: Final[Verdict] = "no", None


def v1(source: str = "192.0.2.1", port: int = 56324, family: str = "TCP4", to: str = "198.51.100.2") -> bytes:
    """A line of version 1."""
    return f"PROXY {family} {source} {to} {port} 443\r\n".encode()


def v2(block: bytes = b"", *, command: int = 0x21, family: int = 0x11, length: int | None = None) -> bytes:
    """A header of version 2 around an address block with its TLVs."""
    return SIGNATURE + struct.pack("!BBH", command, family, len(block) if length is None else length) + block


def inet(source: str = "192.0.2.1", port: int = 56324, to: str = "198.51.100.2", to_port: int = 443) -> bytes:
    """The address block of a connection over IPv4."""
    return socket.inet_aton(source) + socket.inet_aton(to) + struct.pack("!HH", port, to_port)


def inet6(source: str = "2001:db8::1", port: int = 56324, to: str = "2001:db8::2", to_port: int = 443) -> bytes:
    """The same over IPv6."""
    return b"".join(socket.inet_pton(socket.AF_INET6, host) for host in (source, to)) + struct.pack(
        "!HH", port, to_port
    )


def unix(source: bytes = b"/run/client", to: bytes = b"/run/proxy") -> bytes:
    """The same on a unix socket."""
    return struct.pack("!108s108s", source, to)


def tlv(kind: int, value: bytes) -> bytes:
    """One TLV."""
    return struct.pack("!BH", kind, len(value)) + value


def summed(block: bytes, *, family: int = 0x11, wrong: int = 0) -> bytes:
    """A header of version 2 with its checksum behind everything else; ``wrong`` is put over it by exclusive or."""
    header = v2(block + tlv(0x03, bytes(4)), family=family)
    return header[:-4] + struct.pack("!I", crc32c(header) ^ wrong)


def crc32c(data: bytes) -> int:
    """The checksum of RFC 4960, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def verdict(data: bytes) -> Verdict:
    """What the specification says of a connection that begins with ``data``, with both versions spoken."""
    if data[:12] == SIGNATURE[: len(data[:12])] and (data[:1] == b"\r" or not data):
        return _binary(data)
    if data[:6] == b"PROXY "[: len(data[:6])]:
        return _line(data)
    return NO


def _line(data: bytes) -> Verdict:
    if b"\n" not in data[:107]:
        return MORE if len(data) < 107 else NO
    line = data[: data.index(b"\n") + 1]
    if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
        return NO
    words = line[:-2].split(b" ")
    if words[1:2] == [b"UNKNOWN"]:
        return "yes", (len(line), None)
    if len(words) != 6 or words[1] not in {b"TCP4", b"TCP6"}:
        return NO
    hosts = []
    for word in words[2:4]:
        try:
            text = word.decode("ascii")
            host = (
                str(ipaddress.IPv4Address(text))
                if words[1] == b"TCP4"
                else socket.inet_ntop(socket.AF_INET6, ipaddress.IPv6Address(text).packed)
            )
        except ValueError:
            return NO
        if "%" in text:
            return NO
        hosts.append(host)
    ports = words[4:]
    if any(not word.isdigit() or str(int(word)).encode() != word or int(word) > 65535 for word in ports):
        return NO
    return "yes", (len(line), (hosts[0], int(ports[0]), *((0, 0) if words[1] == b"TCP6" else ())))


def _binary(data: bytes) -> Verdict:
    if len(data) < 16 or len(data) < 16 + int.from_bytes(data[14:16], "big"):
        return MORE
    length = 16 + int.from_bytes(data[14:16], "big")
    header = data[:length]
    if header[12] == 0x20:
        return "yes", (length, None)
    family, transport = divmod(header[13], 16)
    if header[12] != 0x21 or family > 3 or transport > 2:
        return NO
    if not family:
        return "yes", (length, None)
    at = 16 + (0, 12, 36, 216)[family]
    if len(header) < at or not _tlvs(header, at):
        return NO
    if transport != 1:
        return "yes", (length, None)
    if family == 3:
        name = header[16:124]
        return "yes", (length, name.split(b"\0")[0].decode("utf-8", "surrogateescape") or name.rstrip(b"\0") or "")
    size = 4 if family == 1 else 16
    kind = socket.AF_INET if family == 1 else socket.AF_INET6
    port = int.from_bytes(header[16 + 2 * size : 18 + 2 * size], "big")
    return "yes", (length, (socket.inet_ntop(kind, header[16 : 16 + size]), port, *((0, 0) if family == 2 else ())))


def _tlvs(header: bytes, at: int, *, inner: bool = False) -> bool:
    while header[at:]:
        if len(header) < at + 3 or len(header) < at + 3 + int.from_bytes(header[at + 1 : at + 3], "big"):
            return False
        kind, end = header[at], at + 3 + int.from_bytes(header[at + 1 : at + 3], "big")
        value = header[at + 3 : end]
        at, start = end, at
        if inner:
            continue  # the types within another TLV have meanings of their own
        if kind == 0x03:
            zeroed = header[: start + 3] + bytes(4) + header[start + 7 :]
            if len(value) != 4 or crc32c(zeroed) != int.from_bytes(value, "big"):
                return False
        if kind == 0x05 and len(value) > 128:
            return False
        if kind == 0x20 and (len(value) < 5 or not _tlvs(value, 5, inner=True)):
            return False
    return True


GOOD: Final = (
    v1(),
    v1("255.255.255.255", 65535, to="255.255.255.255"),
    v1("2001:db8::1", 0, "TCP6", "::ffff:192.0.2.7"),
    v1("ffff:f:ffff:ffff:ffff:ffff:ffff:ffff", 65535, "TCP6", "FFFF:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    b"PROXY UNKNOWN\r\n",
    b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
    v2(inet()),
    v2(inet6(), family=0x21),
    v2(unix(), family=0x31),
    v2(unix(b"\0abstract", b""), family=0x31),
    v2(unix(b"", b""), family=0x31),
    v2(unix(b"x" * 108, b""), family=0x31),
    v2(command=0x20, family=0),
    v2(inet(), command=0x20, family=0xFF),
    v2(b"\xff" * 40, family=0),
    v2(inet(), family=0x12),
    v2(inet6(), family=0x22),
    v2(unix(), family=0x32),
    v2(inet() + tlv(0x04, bytes(9)) + tlv(0xEA, b"\x01vpce-08d2bf15fac5001c9")),
    v2(inet() + tlv(0x20, b"\x07\0\0\0\0" + tlv(0x21, b"TLSv1.3") + tlv(0x22, b"someone")) + tlv(0x02, b"a.test")),
    v2(inet6() + tlv(0x05, b"i" * 128) + tlv(0x30, b"blue") + tlv(0x01, b"h2"), family=0x21),
    summed(inet() + tlv(0x02, b"a.test")),
    summed(inet6(), family=0x21),
)
"""Headers that are right."""


def mutated(chance: random.Random) -> bytes:
    """What a connection may begin with: a good header in which something was changed, and something behind it."""
    data = bytearray(chance.choice(GOOD) + b"GET / HTTP/1.1\r\n\r\n")
    for _ in range(chance.choice((0, 1, 1, 2, 4))):
        at = chance.randrange(len(data))
        match chance.randrange(6):
            case 0:
                data[at] = chance.randrange(256)
            case 1:
                data[at] ^= 1 << chance.randrange(8)
            case 2:
                del data[at : at + chance.choice((1, 1, 2, 16))]
            case 3:
                data[at:at] = chance.choice(
                    (b" ", b"0", b"\r", b"\n", b"\0", b":", b"9", chance.randbytes(3), b"1" * 90)
                )
            case 4:
                del data[at:]
            case _:
                other = chance.choice(GOOD)
                data[at:] = other[chance.randrange(len(other)) :]
        if not data:
            return b""
    return bytes(data)
