"""A Flask application with one view, and its session unused, as most views leave it."""

from flask import Flask

application = Flask(__name__)


@application.get("/")
def hello() -> str:
    """Answer by a view."""
    return "hello\n"
