"""aiohttp: ``prefork serve with_aiohttp:Worker --app-dir examples/embed``."""

from prefork import embed

Worker = embed.aiohttp("application:aiohttp", access_log=None)
