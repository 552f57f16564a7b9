"""A Django site: notes in a session, uploads, a streamed download, static files.

Run it with ``prefork wsgi notes.site:application --app-dir examples/django_app``. Set SECRET_KEY.
"""
