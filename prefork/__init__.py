"""Servers made of many processes on one listening socket, that lose nothing."""

__version__ = "0.1.0"
