"""The control socket, through all of its modules:

control: protocol, peers of every kind, operations, client, commands.
"""
