"""uvicorn: ``prefork serve with_uvicorn:Worker --app-dir examples/embed``."""

from prefork import embed

Worker = embed.uvicorn("application:asgi", access_log=False)
