"""A Flask application: notes in a session, uploads, a streamed download, static files.

Run it with ``prefork wsgi app:application --app-dir examples/flask_app``. Set SECRET_KEY, so that sessions outlive a
restart and are the same in every worker.
"""

import hashlib
import os

from flask import Flask, Response, redirect, render_template, request, session, url_for

application = Flask(__name__)
application.secret_key = os.environ.get("SECRET_KEY") or "for development only"


@application.route("/", methods=["GET", "POST"])
def notes():
    """Show the notes of this session, and take another."""
    if request.method == "POST":
        session["notes"] = [*session.get("notes", []), request.form["note"]]
        return redirect(url_for("notes"))
    return render_template("notes.html", notes=session.get("notes", []), pid=os.getpid())


@application.post("/upload")
def upload():
    """Say what has come of a file."""
    file = request.files["file"]
    digest, size = hashlib.sha256(), 0
    while piece := file.stream.read(65536):
        digest.update(piece)
        size += len(piece)
    return {"name": file.filename, "size": size, "sha256": digest.hexdigest()}


@application.get("/lines/<int:count>")
def lines(count):
    """Send so many lines, made one after the other."""
    return Response((f"line {number}\n" for number in range(count)), mimetype="text/plain")
