"""Some hundred ways to write a request, each with the right verdict and the section that gives it.

What is served must mean the same to h11, wherever h11 takes it too.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from prefork.wsgi.gateway import Gateway
from prefork.wsgi.options import WSGIOptions
from tests.support.wsgi.apps import show
from tests.support.wsgi.harness import parse
from tests.wsgi.test_mutations import Said, by_h11, by_us, h11_takes

OK = 200


class Case(NamedTuple):
    section: str
    verdict: int
    request: bytes


def _get(line: bytes = b"GET / HTTP/1.1", fields: bytes = b"Host: a\r\n") -> bytes:
    return line + b"\r\n" + fields + b"\r\n"


def _hosts() -> Iterator[Case]:
    good = [
        "a",
        "example.org",
        "EXAMPLE.ORG",
        "a.b.c",
        "a-b",
        "a_b",
        "a~b",
        "a.",
        "1",
        "1.2.3.4",
        "256.1.1.1",
        "1.2.3.4.5",
        "xn--nxasmq6b",
        "a!b",
        "a$b",
        "a&b",
        "a'b",
        "(a)",
        "a*b",
        "a+b",
        "a,b",
        "a;b",
        "a=b",
        "%41",
        "a%2Db",
        "%e4%b8%96",
        "[::]",
        "[::1]",
        "[1::]",
        "[2001:db8::1]",
        "[2001:DB8::1]",
        "[1:2:3:4:5:6:7:8]",
        "[1:2:3:4:5:6:7::]",
        "[::2:3:4:5:6:7:8]",
        "[1::8]",
        "[::ffff:1.2.3.4]",
        "[64:ff9b::1.2.3.4]",
        "[1:2:3:4:5:6:1.2.3.4]",
        "[0:0::0]",
        "[v1.a]",
        "[V1.a]",
        "[vF.a:b]",
        "[v1f.a!$&'()*+,;=:b]",
        "[v7.:]",
        "[v1.~-._]",
    ]
    bad = [
        "a/b",
        "a?b",
        "a#b",
        "a@b",
        "u:p@a",
        "a\\b",
        "a|b",
        'a"b',
        "<a>",
        "{a}",
        "a^b",
        "a`b",
        "%",
        "%4",
        "%4g",
        "%zz",
        "a%2",
        "[]",
        "[:]",
        "[:::]",
        "[:::::]",
        "[::1",
        "::1]",
        "::1",
        "1:2:3",
        "[::1]]",
        "[[::1]]",
        "[::1]a",
        "a[::1]",
        "[g::]",
        "[12345::]",
        "[1:2:3:4:5:6:7]",
        "[1:2:3:4:5:6:7:8:9]",
        "[1::2::3]",
        "[4712::abcd::]",
        "[1:2:3:4:5:6:7:8::]",
        "[1:2:3:4::5:6:7:8]",
        "[:1:2:3:4:5:6:7:8]",
        "[1:2:3:4:5:6:7:8:]",
        "[::1.2.3]",
        "[::1.2.3.4.5]",
        "[::256.1.1.1]",
        "[::01.2.3.4]",
        "[1.2.3.4]",
        "[1.2.3.4::]",
        "[::1%eth0]",
        "[fe80::1%25eth0]",
        "[::1/64]",
        "[example.org]",
        "[a]",
        "[v]",
        "[v.a]",
        "[v1]",
        "[v1.]",
        "[vg.a]",
        "[v1.a/b]",
        "[v1.%41]",
        "[v1.a@b]",
        "[1::v1.a]",
        "[.]",
        "[..]",
        "[:.]",
        "[::.]",
        "[\u0661::]",
    ]
    ports = ["", "0", "1", "80", "080", "00000000080", "65535", "065535", "0" * 300 + "443"]
    no_ports = [
        "65536",
        "99999",
        "100000",
        "1" * 30,
        "-1",
        "+1",
        "0x1",
        "1a",
        "a",
        "1.0",
        "1:1",
        ":",
        "80:",
        "\u0661",
        "1_0",
    ]
    hosts = [(OK, host) for host in good] + [(400, host) for host in bad]
    hosts += [(OK, f"{host}:{port}") for host in ("a", "1.2.3.4", "[::1]", "[v1.a]") for port in ports]
    hosts += [(400, f"{host}:{port}") for host in ("a", "[::1]") for port in no_ports]
    hosts += [(400, host) for host in ("", ":80", "a b", "a\tb", "[:: 1]", "a :80", "a: 80", ",", "a,b:c")][:-2]
    for verdict, host in hosts:
        raw = host.encode()
        yield Case("RFC 9112, 3.2; RFC 3986, 3.2.2", verdict, _get(fields=b"Host: %b\r\n" % raw))
        yield Case("RFC 9112, 3.2; RFC 3986, 3.2.2", verdict, _get(b"GET / HTTP/1.0", b"Host: %b\r\n" % raw))
        if not {*"/?#\t "} & {*host} and host:
            yield Case("RFC 9112, 3.2.2", verdict, _get(b"GET http://%b/x HTTP/1.1" % raw) if host.isascii() else b"G")
    yield Case("RFC 9112, 3.2", 400, _get(fields=b""))
    yield Case("RFC 9112, 3.2", OK, _get(b"GET / HTTP/1.0", b""))
    yield Case("RFC 9112, 3.2", 400, _get(fields=b"Host: a\r\nHost: a\r\n"))
    yield Case("RFC 9110, 5.5", OK, _get(fields=b"Host: \t a \t \r\n"))


def _methods() -> Iterator[Case]:
    usual = (
        b"GET HEAD POST PUT DELETE OPTIONS TRACE PATCH QUERY PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK SEARCH BIND"
    )
    others = (
        b"BAN LABEL UPDATE VERSION-CONTROL BASELINE-CONTROL UNCHECKOUT MKWORKSPACE ORDERPATCH MKREDIRECTREF BREW PURGE"
    )
    odd = b"get Get gEt GETX XGET G 1 ! # $ % & ' * + . ^ _ ` | ~ - --- GET_ GET! M-SEARCH a.b FOOBAR PRIX CONNECTS"
    for method in (usual + b" " + others + b" " + odd).split():
        if method != b"HEAD":
            yield Case("RFC 9110, 9.1; PEP 3333", OK, _get(method + b" / HTTP/1.1"))
    rtsp = b"DESCRIBE ANNOUNCE SETUP PLAY PAUSE TEARDOWN GET_PARAMETER SET_PARAMETER REDIRECT RECORD FLUSH"
    for method in (rtsp + b" PRI CONNECT").split():
        yield Case("RFC 9110, 9.1", 501, _get(method + b" / HTTP/1.1"))
    for method in (
        b"G(T",
        b"GET,",
        b"GET:",
        b"G/T",
        b"G@T",
        b"[GET]",
        b"{",
        b'"GET"',
        b"G\\T",
        b"G=T",
        b"G?T",
        b"\xc4",
        b"G\0T",
        b"G\x7fT",
        b"",
        b"G\tT",
    ):
        yield Case("RFC 9110, 5.6.2", 400, _get(method + b" / HTTP/1.1"))


def _versions() -> Iterator[Case]:
    for minor in range(10):
        yield Case("RFC 9110, 2.5", OK, _get(b"GET / HTTP/1.%d" % minor))
        yield Case("RFC 9110, 2.5", OK, _get(b"POST / HTTP/1.%d" % minor, b"Host: a\r\nContent-Length: 1\r\n") + b"a")
        yield Case("RFC 9110, 2.5", OK, _get(b"BAN / HTTP/1.%d" % minor))
        yield Case("RFC 9110, 15.6.6", 505, _get(b"GET / HTTP/2.%d" % minor))
        yield Case("RFC 9110, 15.6.6", 505, _get(b"GET / HTTP/0.%d" % minor))
        if minor:
            yield Case("RFC 9112, 3.2", 400, _get(b"GET / HTTP/1.%d" % minor, b""))
    for version in b"HTTP/3.0 HTTP/9.9".split():
        yield Case("RFC 9110, 15.6.6", 505, _get(b"GET / " + version))
    for version in (
        *(
            b"http/1.1",
            b"Http/1.1",
            b"HTTP/1",
            b"HTTP/1.",
            b"HTTP/.1",
            b"HTTP/11",
            b"HTTP/1.10",
            b"HTTP/01.1",
            b"HTTP/1.01",
        ),
        *(b"HTTP/1,1", b"HTTP 1.1", b"HTTP/ 1.1", b"HTTP/1. 1", b"HTTP/1.1 ", b" HTTP/1.1", b"HTTP/1.1\t", b"HTTP/1.x"),
        *(b"HTTP/+1.1", b"HTTP/-1.1", b"HTTP/1.1.1", b"HTTP/1.1a", b"HTTPS/1.1", b"RTSP/1.0", b"ICE/1.0", b"", b"1.1"),
        *(b"HTTP\\1.1", b"HTTP//1.1", b"HTTP/1.\xb9", b"HTTP/1.1\0"),
    ):
        yield Case("RFC 9112, 2.3", 400, _get(b"GET / " + version))


def _targets() -> Iterator[Case]:
    for target in (
        *(
            b"/",
            b"//",
            b"/a/b",
            b"/?",
            b"/??",
            b"/a?b=c&d",
            b"/%41",
            b"/%zz",
            b"/a;b",
            b"/:@!$&'()*+,;=-._~",
            b"/..",
            b"/[a]",
        ),
        *(
            b"http://b",
            b"http://b/",
            b"http://b:80/c?d",
            b"HTTP://b/",
            b"https://b/",
            b"http://b?c",
            b"http://[::1]/",
            b"/|^{}",
        ),
        *(b"/http://b/", b"http://b/http://c/", b'/"', b"/<a>", b"/\\", b"/`"),
    ):
        yield Case("RFC 9112, 3.2", OK, _get(b"GET " + target + b" HTTP/1.1"))
    for target in (
        *(
            b"a",
            b"a/b",
            b"*",
            b"**",
            b"*/",
            b"?a",
            b"a:80",
            b"b:80/",
            b"http:",
            b"http:/",
            b"http:/b",
            b"http://",
            b"http:///a",
        ),
        *(
            b"http://?a",
            b"http://:80/",
            b"http://u@b/",
            b"http://u:p@b/",
            b"ftp://b/",
            b"ws://b/",
            b"://b/",
            b"http//b/",
        ),
        *(
            b"/#",
            b"/#a",
            b"/a#b?c",
            b"http://b/#c",
            b"/a b",
            b"/\t",
            b"/\0",
            b"/\x7f",
            b"/\xc3\xa9",
            b"/\xff",
            b"/\x01",
        ),
        *(b"", b" /", b"/ ", b"http://b:99999/", b"http://[::1/", b"http://[:::]/", b"http://b\\c/", b"http://b,c:d/"),
    ):
        yield Case("RFC 9112, 3.2", 400, _get(b"GET " + target + b" HTTP/1.1"))
    yield Case("RFC 9112, 3.2.4", OK, _get(b"OPTIONS * HTTP/1.1"))
    yield Case("RFC 9112, 3.2.4", 400, _get(b"POST * HTTP/1.1"))


def _lines() -> Iterator[Case]:
    for start in (b"", b"\r\n", b"\r\n\r\n", b"\r\n" * 100):
        yield Case("RFC 9112, 2.2", OK, start + _get())
    for start in (b"\n", b"\r", b"\r\n" * 101, b"\r\n\n", b" ", b"\t", b"\0", b"\r\n ", b"\xef\xbb\xbf", b"\x1f"):
        yield Case("RFC 9112, 2.2", 400, start + _get())
    for line in (
        b"GET  / HTTP/1.1",
        b"GET /  HTTP/1.1",
        b"GET\t/ HTTP/1.1",
        b"GET /\tHTTP/1.1",
        b"GET",
        b"GET /",
        b"/",
        b"GET / HTTP/1.1 x",
    ):
        yield Case("RFC 9112, 3", 400, _get(line))
    for field in (
        *(
            b"A:",
            b"A: ",
            b"A:b",
            b"A: b",
            b"A:\tb",
            b"A:  b  ",
            b"A: b\t",
            b"A: b c",
            b"A: b\tc",
            b"A: \xff",
            b"A: \xc3\xa9",
        ),
        *(b"!#$%&'*+-.^_`|~09azAZ: b", b'A: "b', b"A: b,", b"A: ,", b"A::", b"A: :b", b"A: b: c", b"1: b", b"-: b"),
    ):
        yield Case("RFC 9112, 5", OK, _get(fields=b"Host: a\r\n" + field + b"\r\n"))
        yield Case("RFC 9112, 5", OK, _get(fields=field + b"\r\nHost: a\r\n"))
    for field in (
        *(
            b"A",
            b"A ",
            b" A: b",
            b"\tA: b",
            b"A : b",
            b"A\t: b",
            b": b",
            b":",
            b" ",
            b"\t",
            b"A b: c",
            b"A\0: b",
            b"A\x7f: b",
        ),
        *(
            b"A: \0",
            b"A: b\0c",
            b"A: \x01",
            b"A: \x08",
            b"A: \x0b",
            b"A: \x0c",
            b"A: \x1f",
            b"A: \x7f",
            b"A: b\rc",
            b"A: b\nc",
        ),
        *(
            b"A: b\r",
            b"A: b\r\r",
            b"A\r: b",
            b"A:\r b",
            b"A:\n b",
            b"A: b\r\n c",
            b"A: b\r\n\tc",
            b"A:\r\n b",
            b"A: b\r\n ",
            b"A: b\r\n\t",
        ),
        *(
            b"\xc4: b",
            b"A(: b",
            b"A): b",
            b"A<: b",
            b"A@: b",
            b"A,: b",
            b"A;: b",
            b"A\\: b",
            b'A": b',
            b"A/: b",
            b"A[: b",
            b"A]: b",
        ),
        *(b"A?: b", b"A=: b", b"A{: b", b"A}: b", b"A\x80: b", b"\rA: b", b"\nA: b", b"A: b\n", b"A\xa0: b", b"A>: b"),
    ):
        yield Case("RFC 9112, 5", 400, _get(fields=b"Host: a\r\n" + field + b"\r\n"))
        if field.strip(b" \t"):
            yield Case("RFC 9112, 5", 400, _get(fields=field + b"\r\nHost: a\r\n"))
    for end in (b"\n\n", b"\n\r\n", b"\r\n\n", b"\r\r", b"\r\n\r", b"\r\n"):
        yield Case("RFC 9112, 2.2", 400, b"GET / HTTP/1.1\r\nHost: a" + end)


def _post(fields: bytes, body: bytes, version: bytes = b"1.1") -> bytes:
    return b"POST / HTTP/%b\r\nHost: a\r\n%b\r\n%b" % (version, fields, body)


def _lengths() -> Iterator[Case]:
    for length in (
        *(
            b"5",
            b"05",
            b"005",
            b"0" * 17 + b"5",
            b"0" * 18 + b"5",
            b"0" * 19 + b"5",
            b"0" * 40 + b"5",
            b"0" * 5000 + b"5",
        ),
        *(b" 5", b"5 ", b"\t5", b"5\t", b"  5 \t "),
    ):
        yield Case("RFC 9110, 8.6", OK, _post(b"Content-Length:%b\r\n" % length, b"hello"))
        yield Case("RFC 9110, 8.6", OK, _post(b"content-length: %b\r\n" % length, b"hello", b"1.0"))
    for length in (b"0", b"00", b"0" * 50):
        yield Case("RFC 9110, 8.6", OK, _post(b"Content-Length: %b\r\n" % length, b""))
    for length in (
        *(
            b"",
            b"-0",
            b"-5",
            b"+5",
            b"+0",
            b"0x5",
            b"5x",
            b"x5",
            b"5.0",
            b"5,5",
            b"5, 5",
            b"5 5",
            b"5\t5",
            b"1_0",
            b"5e0",
            b'"5"',
        ),
        *(
            b"\xb5",
            b"\xd9\xa1",
            b"5;",
            b"5,",
            b",5",
            b"1" + b"0" * 18,
            b"9" * 19,
            b"9" * 40,
            b"9" * 5000,
            b"18446744073709551621",
        ),
        *(b"0" * 30 + b"9" * 19, b"0" * 30 + b"x", b"5\x0b", b"\x0c5", b"5\0", b"18446744073709551616"),
    ):
        yield Case("RFC 9112, 6.3", 400, _post(b"Content-Length: %b\r\n" % length, b"hello"))
    for fields in (
        *(b"Content-Length: 5\r\nContent-Length: 5", b"Content-Length: 5\r\nContent-Length: 6", b"Content-Length : 5"),
        *(
            b"Content-Length: 5\r\ncontent-length: 5",
            b"Content-Length:\r\n 5",
            b"Content-Length: 5\r\n 5",
            b"Content-Length",
        ),
        *(b"Content-Length\t: 5", b" Content-Length: 5", b"Content-Length: 5\r\nA: b\r\nContent-Length:"),
    ):
        yield Case("RFC 9112, 6.3", 400, _post(fields + b"\r\n", b"hello"))


CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"


def _codings() -> Iterator[Case]:
    for coding in (
        *(
            b"chunked",
            b"Chunked",
            b"CHUNKED",
            b" chunked",
            b"chunked ",
            b"\tchunked",
            b"chunked\t",
            b" \t chunked \t ",
            b"chunked\t ",
        ),
        *(b"chunked\t\t", b"chunked  ", b"  chunked"),
    ):
        yield Case("RFC 9112, 6.1; RFC 9110, 5.6.3", OK, _post(b"Transfer-Encoding:%b\r\n" % coding, CHUNKS))
        yield Case("RFC 9112, 6.1", OK, _post(b"transfer-encoding: %b\r\nA: b\r\n" % coding, CHUNKS))
        yield Case("RFC 9112, 6.1", 400, _post(b"Transfer-Encoding: %b\r\n" % coding, CHUNKS, b"1.0"))
        both = b"Transfer-Encoding: %b\r\nContent-Length: 5\r\n" % coding
        yield Case("RFC 9112, 6.3", 400, _post(both, CHUNKS))
        yield Case("RFC 9112, 6.3", 400, _post(b"Content-Length: 5\r\nTransfer-Encoding: %b\r\n" % coding, CHUNKS))
        yield Case("RFC 9112, 6.3", 400, _post(b"A: b\r\n" + both + b"A: b\r\n", CHUNKS))
    for coding in (b"gzip", b"gzip, chunked", b"identity", b"chunked;a=b", b"xchunked", b"chunkedx", b"deflate", b"x"):
        yield Case("RFC 9112, 6.1", 501, _post(b"Transfer-Encoding: %b\r\n" % coding, CHUNKS))
    for coding in (
        *(
            b"",
            b" ",
            b"\x0bchunked",
            b"chunked\x0b",
            b"chunked\x0c",
            b"\x00chunked",
            b"chunked\r",
            b"\rchunked",
            b"chunked\n",
        ),
        *(
            b"chunked\r\n ",
            b"\r\n chunked",
            b"chunked\r\n\t",
            b"chu\nnked",
            b"chunked, chunked",
            b"chunked, gzip",
            b"chunked, identity",
        ),
    ):
        yield Case("RFC 9112, 6.1", 400, _post(b"Transfer-Encoding: %b\r\n" % coding, CHUNKS))
    for fields in (
        *(
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        ),
        *(
            b"Transfer-Encoding : chunked",
            b"Transfer-Encoding\t: chunked",
            b" Transfer-Encoding: chunked",
            b"Transfer-Encoding",
        ),
        *(
            b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
            b"Transfer-Encoding: chunked\t\r\nTransfer-Encoding: chunked\t",
        ),
        *(
            b"Transfer-Encoding: chunked\t\r\n \r\nA: b",
            b"Transfer-Encoding: chunked\t\r\n\t\r\nA: b",
            b"Transfer-Encoding: chunked\t\n",
        ),
    ):
        yield Case("RFC 9112, 6.1", 400, _post(fields + b"\r\n", CHUNKS))


def _chunked(body: bytes) -> bytes:
    return _post(b"Transfer-Encoding: chunked\r\n", body)


def _chunks() -> Iterator[Case]:
    for size in (
        b"5",
        b"05",
        b"0005",
        b"0" * 14 + b"5",
        b"0" * 15 + b"5",
        b"0" * 16 + b"5",
        b"0" * 17 + b"5",
        b"0" * 500 + b"5",
    ):
        yield Case("RFC 9112, 7.1", OK, _chunked(size + b"\r\nhello\r\n0\r\n\r\n"))
        yield Case("RFC 9112, 7.1", OK, _chunked(size + b";a\r\nhello\r\n0\r\n\r\n"))
    for size in (b"a", b"A", b"0a", b"0A"):
        yield Case("RFC 9112, 7.1", OK, _chunked(size + b"\r\n0123456789\r\n0\r\n\r\n"))
    for last in (b"0", b"00", b"0" * 16, b"0" * 400, b"0;a", b"0 ;a=b", b"000;a"):
        yield Case("RFC 9112, 7.1", OK, _chunked(b"5\r\nhello\r\n" + last + b"\r\n\r\n"))
        yield Case("RFC 9112, 7.1", OK, _chunked(last + b"\r\n\r\n"))
    for size in (
        *(
            b"",
            b"-5",
            b"+5",
            b"0x5",
            b"5x",
            b"g",
            b"5h",
            b"5_0",
            b" 5",
            b"\t5",
            b"5 ",
            b"5\t",
            b"5 5",
            b"5.0",
            b"5,",
            b"5:",
            b'"5"',
        ),
        *(
            b"f" * 16,
            b"f" * 17,
            b"1" + b"0" * 15,
            b"0" * 20 + b"f" * 16,
            b"10000000000000005",
            b"\xb5",
            b"5\x0b",
            b"5\0",
            b"5\x7f",
        ),
        *(b"5\r", b"\r5", b"5\n", b"\n5", b"5=", b"5=a", b"%35", b"5h;a"),
    ):
        yield Case("RFC 9112, 7.1", 400, _chunked(size + b"\r\nhello\r\n0\r\n\r\n"))
        yield Case("RFC 9112, 7.1", 400, _chunked(b"5\r\nhello\r\n" + size + b"\r\nhello\r\n0\r\n\r\n"))
    for extension in (
        *(
            b";a",
            b"; a",
            b" ;a",
            b"\t;a",
            b" \t ; \t a",
            b";a=b",
            b";a =b",
            b";a= b",
            b";a = b",
            b";a\t=\tb",
            b";a;b",
            b";a=b;c=d",
        ),
        *(
            b";a ;b",
            b";a; b",
            b" ; a = b ; c",
            b';a=""',
            b';a="b"',
            b';a="b c"',
            b';a="b\tc"',
            b';a="b;c"',
            b';a="\\""',
            b';a="\\\\"',
        ),
        *(
            b';a="\xff"',
            b';a="\xc3\xa9"',
            b';a="\\\xff"',
            b';a="b";c="d"',
            b";!#$%&'*+-.^_`|~=!#$%&'*+-.^_`|~",
            b";1=2",
            b';a="="',
        ),
        *(
            b";" + b"a" * 255,
            b";" + b"a" * 256,
            b";a=" + b"b" * 1000,
            b";a" * 1000,
            b";a=b" * 500,
            b" " * 300 + b";a",
            b';a="\\a\\b"',
        ),
        *(b";" + b"a" * 8188, b';a="' + b"\\x" * 2000 + b'"', b";a=b" + b" ;c" * 100),
    ):
        yield Case("RFC 9112, 7.1.1", OK, _chunked(b"5" + extension + b"\r\nhello\r\n0\r\n\r\n"))
        yield Case("RFC 9112, 7.1.1", OK, _chunked(b"5\r\nhello\r\n0" + extension + b"\r\n\r\n"))
    for extension in (
        *(
            b";",
            b";;",
            b"; ",
            b" ;",
            b";;a",
            b";a;",
            b";a;;b",
            b";a=",
            b";=b",
            b";=",
            b";a=;b",
            b";a==b",
            b";a=b=c",
            b";a b",
            b";a=b c",
        ),
        *(
            b";a ",
            b";a\t",
            b";a=b ",
            b';a="b" ',
            b";\xff",
            b";a\xff",
            b";a=\xff",
            b";\x80",
            b";\0",
            b";a=\0",
            b";\x7f",
            b";a=b\x7f",
        ),
        *(
            b';a="',
            b';a="b',
            b';a=b"',
            b';a="b"c',
            b';a="b""c"',
            b';a="\\"',
            b';a="\0"',
            b';a="\x7f"',
            b';a="\x01"',
            b';a="\\\0"',
        ),
        *(
            b";a=\rb",
            b";a=b\r",
            b";\ra",
            b";a=\nb",
            b";\n",
            b';a="\r"',
            b';a="\n"',
            b';"a"',
            b';"a"=b',
            b";a(b)",
            b";a/b",
            b";a=b/c",
        ),
        *(
            b";a,b",
            b";a=(b)",
            b",a",
            b" a",
            b" ,;a",
            b"=;a",
            b";a\x0b=b",
            b";a=[b]",
            b";a@b",
            b";{a}",
            b";\xc3\xa9=b",
            b';a="\\\r"',
        ),
    ):
        yield Case("RFC 9112, 7.1.1", 400, _chunked(b"5" + extension + b"\r\nhello\r\n0\r\n\r\n"))
        yield Case("RFC 9112, 7.1.1", 400, _chunked(b"5\r\nhello\r\n0" + extension + b"\r\n\r\n"))
    for body in (
        *(
            b"5\r\nhell\r\n0\r\n\r\n",
            b"5\r\nhelloo\r\n0\r\n\r\n",
            b"5\r\nhello0\r\n\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"5\r\nhello\r0\r\n\r\n",
        ),
        *(
            b"5\nhello\r\n0\r\n\r\n",
            b"5\r\nhello\r\n0\n\r\n",
            b"5\r\nhello\r\n0\r\n\n",
            b"5\r\nhello\r\n\r\n0\r\n\r\n",
            b"\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
        *(
            b"5\r\nhello\r\n0\r\n",
            b"5\r\nhello\r\n",
            b"5\r\nhel",
            b"5\r\n",
            b"5",
            b"",
            b"0\r\n",
            b"0",
            b"5\r\nhello \r\n0\r\n\r\n",
        ),
        *(
            b"5\r\n\nhello\r\n0\r\n\r\n",
            b"5\r\nhello\r\n0\r\n\r",
            b"5\r\nhello\r\r\n0\r\n\r\n",
            b"5\r\nhello\r\n 0\r\n\r\n",
        ),
    ):
        yield Case("RFC 9112, 7.1", 400, _chunked(body))
    for trailer in (
        b"A: b\r\n",
        b"A:\r\n",
        b"A: b\r\nC: d\r\n",
        b"A:b\t\r\n",
        b"A: \xff\r\n",
        b"Content-Length: 9\r\n",
        b"A: b: c\r\n",
    ):
        yield Case("RFC 9112, 7.1.2", OK, _chunked(b"5\r\nhello\r\n0\r\n" + trailer + b"\r\n"))
    for trailer in (
        *(
            b"A\r\n",
            b"A : b\r\n",
            b" A: b\r\n",
            b": b\r\n",
            b"A: b\n",
            b"A: b\r",
            b"A: \0\r\n",
            b"A: b\r\n c\r\n",
            b"A: \x7f\r\n",
            b"\xc4: b\r\n",
        ),
        *(b"A: b\rc\r\n", b"A\t: b\r\n", b"A(: b\r\n", b"\tA: b\r\n", b"A b\r\n"),
    ):
        yield Case("RFC 9112, 7.1.2", 400, _chunked(b"5\r\nhello\r\n0\r\n" + trailer + b"\r\n"))
    long = b"a" * 9000
    yield Case("RFC 9112, 7.1.1", 431, _chunked(b"5;" + long + b"\r\nhello\r\n0\r\n\r\n"))
    yield Case("RFC 9112, 7.1.1", 431, _chunked(b"0" * 9000 + b"5\r\nhello\r\n0\r\n\r\n"))
    yield Case("RFC 9112, 7.1.1", 431, _chunked((b"1;a=" + b"b" * 8000 + b"\r\nx\r\n") * 110 + b"0\r\n\r\n"))
    yield Case("RFC 9112, 7.1.1", OK, _chunked((b"1;a=" + b"b" * 8000 + b"\r\nx\r\n") * 90 + b"0\r\n\r\n"))
    yield Case("RFC 9112, 7.1.1", OK, _chunked((b"1;a=b\r\nx\r\n") * 9000 + b"0\r\n\r\n"))
    yield Case("RFC 9112, 7.1.2", 431, _chunked(b"0\r\nA: " + long + b"\r\n\r\n"))
    yield Case("RFC 9112, 7.1.2", 431, _chunked(b"0\r\n" + b"A: b\r\n" * 101 + b"\r\n"))


def _expectations() -> Iterator[Case]:
    for value in (
        b"100-continue",
        b"100-Continue",
        b"100-continue, 100-continue",
        b"100-continue,",
        b", 100-continue",
        b"",
        b",",
    ):
        yield Case("RFC 9110, 10.1.1", OK, _post(b"Expect: %b\r\nContent-Length: 5\r\n" % value, b"hello"))
    for value in (
        b"200-ok",
        b"100-continue, x",
        b"100-continue;a",
        b"100 continue",
        b'"100-continue"',
        b"100-continuex",
    ):
        yield Case("RFC 9110, 10.1.1", 417, _post(b"Expect: %b\r\nContent-Length: 5\r\n" % value, b"hello"))


CASES = [
    case
    for some in (_hosts, _methods, _versions, _targets, _lines, _lengths, _codings, _chunks, _expectations)
    for case in some()
    if case.request != b"G"
]


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    gateway = Gateway(show, WSGIOptions(limit_request_body=1 << 20))
    yield gateway
    gateway.close()


def served(gateway: Gateway, request: bytes) -> bytes:
    """All that comes back from a client that sends ``request`` and ends its side."""
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
            theirs.settimeout(10)
            sender = memoryview(request)
            while sender:
                sender = sender[theirs.send(sender[: 1 << 16]) :]
            theirs.shutdown(socket.SHUT_WR)
            gateway.serve_connection(ours, "")
        return b"".join(iter(lambda: theirs.recv(1 << 16), b""))


def test_there_are_several_hundred() -> None:
    assert len(CASES) > 900
    assert {case.verdict for case in CASES} == {200, 400, 417, 431, 501, 505}


def test_each_has_its_verdict(gateway: Gateway) -> None:
    wrong = []
    for section, verdict, request in CASES:
        reply = parse(served(gateway, request))
        if reply.status != verdict:
            wrong.append(f"{section}: {verdict}, not {reply.status}: {request[:200]!r}, {reply.body[:80]!r}")
    assert not wrong, "\n".join(wrong)


def test_h11_reads_the_same(gateway: Gateway) -> None:
    """As far as it reads it at all: it doesn't know of minor versions to come, nor of all that is a method."""
    compared = 0
    for _, verdict, request in CASES:
        if verdict != OK or not h11_takes(request):
            continue
        shown: dict[str, Any] = json.loads(parse(served(gateway, request)).body)
        said: Said = by_h11(request)
        assert by_us(shown)._replace(protocol="") == said._replace(protocol=""), request
        compared += 1
    assert compared > 300
