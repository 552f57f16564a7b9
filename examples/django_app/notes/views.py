"""What the site answers."""

import hashlib
import os

from django.http import JsonResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST


def notes(request):
    """Show the notes of this session, and take another."""
    kept = request.session.get("notes", [])
    if request.method == "POST":
        request.session["notes"] = [*kept, request.POST["note"]]
        return redirect("notes")
    return render(request, "notes.html", {"notes": kept, "pid": os.getpid()})


@require_POST
def upload(request):
    """Say what has come of a file."""
    file = request.FILES["file"]
    digest = hashlib.sha256()
    for piece in file.chunks():
        digest.update(piece)
    return JsonResponse({"name": file.name, "size": file.size, "sha256": digest.hexdigest()})


def lines(request, count):
    """Send so many lines, made one after the other."""
    return StreamingHttpResponse((f"line {number}\n" for number in range(count)), content_type="text/plain")
