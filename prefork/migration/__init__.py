"""What gunicorn and uWSGI call things, and how a configuration of theirs is read and retold in settings of ours.

Any process runs it, before there is a server: it imports nothing but the errors and `prefork.system`, and everybody
below may import it, when one of those names is met and not before.
"""
