"""What attaches to a master, and by a word of their own:

reporting: syslog, statsd and the handlers of a file.
socket_activation: the real systemd-socket-activate.
"""
