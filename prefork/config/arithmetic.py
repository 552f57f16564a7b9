"""A count that depends on the machine, as in "2 * cpus + 1": read without being executed, and computed. Pure.

EXPRESSION = TERM, { ("+" | "-"), TERM }
TERM = FACTOR, { "*", FACTOR | ("/" | "//"), NUMBER }
FACTOR = NUMBER | "cpus" | ("min" | "max"), "(", EXPRESSION, { ",", EXPRESSION }, ")" | "(", EXPRESSION, ")"
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Final

_TOKEN: Final = re.compile(r"\s*(?:(?P<number>[0-9]{1,5}(?:\.[0-9]{1,3})?)|(?P<sign>//|[-+*/(),]|cpus\b|min\b|max\b))")
_LONGEST: Final = 80
_DEEPEST: Final = 8

Compute = Callable[[int], Fraction]


def parse(text: str) -> Callable[[int], int]:
    """Read an expression.

    Args:
        text: It.

    Returns:
        What computes it for a count of CPUs; what is left over a whole number is cut off.

    Raises:
        ValueError: It is none.
    """
    if len(text) > _LONGEST:
        raise ValueError("is too long")
    reader = _Reader(_tokens(text))
    compute = reader.expression(0)
    if reader.tokens:
        raise ValueError("goes on where it should end")
    return lambda cpus: int(compute(cpus) // 1)


def _tokens(text: str) -> list[str]:
    tokens, at = [], 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError("holds something else than numbers, cpus, min, max, + - * / and brackets")
        tokens.append(match["number"] or match["sign"])
        at = match.end()
    return tokens


class _Reader:
    """Reads from the front of a list of tokens."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens

    def _next(self, *wanted: str) -> str:
        """Take the next token if it is one of these; "" if not."""
        if self.tokens and self.tokens[0] in wanted:
            return self.tokens.pop(0)
        return ""

    def _need(self, wanted: str) -> None:
        if not self._next(wanted):
            raise ValueError(f"lacks a {wanted}")

    def expression(self, depth: int) -> Compute:
        """Read a sum."""
        if depth > _DEEPEST:
            raise ValueError("has too many brackets")
        left = self._term(depth)
        while sign := self._next("+", "-"):
            left = _applied(sign, left, self._term(depth))
        return left

    def _term(self, depth: int) -> Compute:
        left = self._factor(depth)
        while sign := self._next("*", "/", "//"):
            if sign == "*":
                left = _applied(sign, left, self._factor(depth))
            else:
                number = self._number()
                if not number:
                    raise ValueError("divides by something else than a number above 0")
                left = _applied(sign, left, lambda _, number=number: number)  # type: ignore[misc]  # bound now, not later
        return left

    def _factor(self, depth: int) -> Compute:
        if self._next("cpus"):
            return Fraction
        name = self._next("min", "max")
        if self._next("("):
            parts = [self.expression(depth + 1)]
            while name and self._next(","):
                parts.append(self.expression(depth + 1))
            self._need(")")
            return _chosen(min if name == "min" else max, parts)
        if name:
            raise ValueError("lacks a (")
        number = self._number()
        return lambda _: number

    def _number(self) -> Fraction:
        if not self.tokens or not self.tokens[0][0].isdigit():
            raise ValueError("lacks a number")
        return Fraction(self.tokens.pop(0))


def _applied(sign: str, left: Compute, right: Compute) -> Compute:
    match sign:
        case "+":
            return lambda cpus: left(cpus) + right(cpus)
        case "-":
            return lambda cpus: left(cpus) - right(cpus)
        case "*":
            return lambda cpus: left(cpus) * right(cpus)
        case "//":
            return lambda cpus: Fraction(left(cpus) // right(cpus))
        case _:
            return lambda cpus: left(cpus) / right(cpus)


def _chosen(choose: Callable[[list[Fraction]], Fraction], parts: list[Compute]) -> Compute:
    return lambda cpus: choose([part(cpus) for part in parts])
