"""The PROXY protocol, read: every rule of its specification, and changed headers against a second reading of them."""

from __future__ import annotations

import random

import pytest

from prefork.net.proxy_protocol import REMEMBERED, ProxyHeader, ProxyProtocolError, ProxySSL, crc32c, read_header
from tests.support.figures import count
from tests.support.proxy_headers import (
    GOOD,
    MORE,
    NO,
    SIGNATURE,
    Verdict,
    inet,
    inet6,
    mutated,
    summed,
    tlv,
    unix,
    v1,
    v2,
    verdict,
)


def read(data: bytes) -> Verdict:
    """What is made of a connection that begins so; in the words of `verdict`."""
    try:
        header = read_header(data)
    except ProxyProtocolError:
        return NO
    if header is None:
        return MORE
    assert header.raw == data[: len(header.raw)]
    return "yes", (len(header.raw), header.source)


def parse_header(data: bytes) -> ProxyHeader:
    """A header that is whole."""
    header = read_header(data)
    assert header is not None
    assert header.raw == data
    return header


@pytest.mark.parametrize("header", GOOD, ids=repr)
def test_a_good_header_is_read_to_its_last_byte_and_no_further(header: bytes) -> None:
    assert read(header) == read(header + b"PROXY TCP4 ") == verdict(header)
    assert verdict(header)[1][0] == len(header)


@pytest.mark.parametrize("header", GOOD, ids=repr)
def test_any_beginning_of_a_good_header_waits_for_the_rest(header: bytes) -> None:
    assert {read(header[:length]) for length in range(len(header))} == {MORE}


@pytest.mark.parametrize(
    ("header", "source"),
    [
        (v1(), ("192.0.2.1", 56324)),
        (v1("2001:DB8:0::1", 1, "TCP6", "::"), ("2001:db8::1", 1, 0, 0)),
        (b"PROXY UNKNOWN 1.2.3.4 5.6.7.8 1 2\r\n", None),
        (v2(inet("203.0.113.9", 65535)), ("203.0.113.9", 65535)),
        (v2(inet6("::ffff:192.0.2.1", 7), family=0x21), ("::ffff:192.0.2.1", 7, 0, 0)),
        (v2(unix(b"/run/a"), family=0x31), "/run/a"),
        (v2(unix(b"/run/\xff"), family=0x31), "/run/\udcff"),
        (v2(unix(b"\0name"), family=0x31), b"\0name"),
        (v2(unix(b""), family=0x31), ""),
        (v2(inet(), command=0x20), None),
        (v2(b"\x01", family=0x00), None),
        (v2(inet(), family=0x12), None),
    ],
)
def test_whose_connection_it_is(header: bytes, source: object) -> None:
    assert parse_header(header).source == source


def test_where_the_client_has_connected_to() -> None:
    assert parse_header(v1()).destination == ("198.51.100.2", 443)
    assert parse_header(v2(inet6(), family=0x21)).destination == ("2001:db8::2", 443, 0, 0)
    assert parse_header(v2(unix(), family=0x31)).destination == "/run/proxy"


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1  2\r\n",
        b"PROXY  TCP4 192.0.2.1 198.51.100.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2 \r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1\r\n",
        b"PROXY TCP4 192.0.2.1\r\n",
        b"PROXY TCP4 192.0.2.01 198.51.100.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.256 198.51.100.2 1 2\r\n",
        b"PROXY TCP4 192.0.2 198.51.100.2 1 2\r\n",
        b"PROXY TCP4 0xc0.0.2.1 198.51.100.2 1 2\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
        b"PROXY TCP6 192.0.2.1 198.51.100.2 1 2\r\n",
        b"PROXY TCP6 2001:db8::1%lo 2001:db8::2 1 2\r\n",
        b"PROXY TCP6 1::2::3 2001:db8::2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 01 2\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 00 2\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1 00\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1_0 2\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2_0\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2  2\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 65536 2\r\n",
        b"PROXY UNKNOWN\n",
        b"PROXY UNKNOWN\r\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1 65536\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 -1 2\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 +1 2\r\n",
        b"PROXY TCP5 192.0.2.1 198.51.100.2 1 2\r\n",
        b"PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n",
        b"PROXY UNKNOWNX\r\n",
        b"PROXY unknown\r\n",
        b"PROXY \r\n",
        b"proxy TCP4 192.0.2.1 198.51.100.2 1 2\r\n",
        b"PROXY\tTCP4 192.0.2.1 198.51.100.2 1 2\r\n",
        b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01",
        b" ",
        b"\0",
    ],
)
def test_a_line_that_is_none(line: bytes) -> None:
    assert read(line) == verdict(line) == NO


def test_the_longest_line() -> None:
    longest = b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n"
    assert len(longest) == 107
    assert read(longest) == ("yes", (107, None))
    assert read(longest[:-2] + b"xx") == NO  # and is not waited for


@pytest.mark.parametrize(
    "header",
    [
        v2(inet(), command=0x11),
        v2(inet(), command=0x31),
        v2(inet(), command=0x22),
        v2(inet(), family=0x41),
        v2(inet(), family=0x13),
        v2(inet()[:11]),
        v2(inet6()[:35], family=0x21),
        v2(unix()[:215], family=0x31),
        v2(inet() + b"\x04"),
        v2(inet() + b"\x04\0"),
        v2(inet() + b"\x04\0\x01"),
        v2(inet() + tlv(0x20, b"\x01\0\0\0")),
        v2(inet() + tlv(0x20, b"\x01\0\0\0\0\x21\0\x09TLS")),
        v2(inet() + tlv(0x05, bytes(129))),
        v2(inet() + tlv(0x03, bytes(3))),
        summed(inet(), wrong=1),
        summed(inet6() + tlv(0x02, b"a.test"), family=0x21, wrong=1 << 31),
    ],
)
def test_a_binary_header_that_is_none(header: bytes) -> None:
    assert read(header) == verdict(header) == NO


def test_a_checksum_before_other_tlvs_covers_them() -> None:
    whole = v2(inet() + tlv(0x04, b"ab") + tlv(0x03, bytes(4)) + tlv(0x02, b"a.test"))
    at = 16 + 12 + 5 + 3
    good = whole[:at] + crc32c(whole).to_bytes(4, "big") + whole[at + 4 :]
    assert parse_header(good).authority == "a.test"
    assert read(good[:-1] + b"u") == NO
    assert crc32c(b"123456789") == 0xE3069283


def test_a_version_that_is_not_spoken() -> None:
    for header, spoken in ((v1(), {"v1": False}), (v2(inet()), {"v2": False})):
        for length in range(1, len(header)):
            with pytest.raises(ProxyProtocolError):
                read_header(header[:length], **spoken)
        assert read_header(b"", **spoken) is None


def test_what_a_proxy_says_beside_the_addresses() -> None:
    ssl = b"\x05\0\0\0\0" + tlv(0x21, b"TLSv1.3") + tlv(0x22, "Jörg".encode()) + tlv(0x23, b"AES")
    block = tlv(0x02, b"a.test") + tlv(0x20, ssl) + tlv(0xEA, b"\x01vpce-1") + tlv(0x05, b"\0\xff") + tlv(0x01, b"h2")
    header = parse_header(v2(inet() + block + tlv(0x30, b"blue") + tlv(0xE3, b"own")))
    assert (header.authority, header.aws_vpce_id, header.unique_id) == ("a.test", "vpce-1", b"\0\xff")
    assert (header.alpn, header.netns, header.tlv(0xE3), header.tlv(0xE4)) == ("h2", "blue", b"own", None)
    assert header.ssl == ProxySSL(True, True, True, "TLSv1.3", "Jörg", "AES")
    unverified = parse_header(v2(inet() + tlv(0x20, b"\x05\0\0\0\x01") + tlv(0xEA, b"\x02x")))
    assert unverified.ssl == ProxySSL(True, True, False, "", "", "")
    assert unverified.aws_vpce_id == ""
    plain = parse_header(v2(inet() + tlv(0x20, b"\0\0\0\0\x01")))
    assert plain.ssl == ProxySSL(False, False, False, "", "", "")
    assert parse_header(v1()).ssl is None


def test_changed_headers_are_read_as_the_rules_say() -> None:
    chance = random.Random(20)
    for _ in range(count("mutated-proxy-headers")):
        data = mutated(chance)
        assert read(data) == verdict(data), data


def test_what_comes_piece_by_piece_is_read_as_what_comes_at_once() -> None:
    chance = random.Random(21)
    for _ in range(count("mutated-proxy-headers", part=100)):
        data = mutated(chance)
        pieces = (read(data[:length]) for length in range(len(data) + 1))
        assert next((piece for piece in pieces if piece != MORE), MORE) in {read(data), NO}, data


def test_addresses_are_remembered_and_not_for_ever() -> None:
    for number in range(4000):
        host, port = f"10.0.{number >> 8}.{number & 255}", 1 + number
        for header in (v1(host, port, to=host), v2(inet(host, port))):
            assert parse_header(header).source == (host, port)
        parse_header(v1(host, port)[:-5] + b"%d\r\n" % port)
        for header in (
            v1(f"2001:db8::1:{port:x}", 7, "TCP6", "::1"),
            v2(inet6(f"2001:db8::1:{port:x}", 7), family=0x21),
        ):
            assert parse_header(header).source == (f"2001:db8::1:{port:x}", 7, 0, 0)
    assert all(0 < len(kept) <= 1024 for kept in REMEMBERED)
    assert read(v1("10.0.0.1 ", 1)) == NO
    assert read(v1("10.0.0.1", 1)) == ("yes", (len(v1("10.0.0.1", 1)), ("10.0.0.1", 1)))


def test_the_signature_is_no_line() -> None:
    assert read(SIGNATURE) == MORE
    assert read(SIGNATURE[:5] + b"G") == NO
