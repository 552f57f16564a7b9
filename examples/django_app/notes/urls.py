"""Which view answers what."""

from django.conf import settings
from django.urls import path
from django.views.static import serve

from notes import views

urlpatterns = [
    path("", views.notes, name="notes"),
    path("upload", views.upload, name="upload"),
    path("lines/<int:count>", views.lines, name="lines"),
    path("static/<path:path>", serve, {"document_root": settings.STATIC_DIR}, name="static"),
]
