"""wsgiref: ``prefork serve with_wsgiref:Worker --app-dir examples/embed``."""

from prefork import embed

Worker = embed.wsgiref("application:wsgi")
