"""A Django project in one module, with what most projects have: admin, auth, sessions, messages, templates."""

import gc

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.template import engines
from django.urls import path

settings.configure(
    SECRET_KEY="not one",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    USE_TZ=True,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=[
        f"django.contrib.{name}"
        for name in ("admin", "auth", "contenttypes", "sessions", "messages", "staticfiles", "humanize", "sitemaps")
    ],
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ],
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
)
django.setup()

from django.contrib import admin  # noqa: E402  # can be imported only when Django is set up


def hello(request: HttpRequest) -> HttpResponse:
    """Render a template."""
    template = engines["django"].from_string("hello {% for n in range %}{{ n }} {% endfor %}")
    return HttpResponse(template.render({"range": range(20)}, request))


def collect(_request: HttpRequest) -> HttpResponse:
    """Collect all garbage: what a worker does sooner or later, and what copies every page that it looks at."""
    return HttpResponse(str(gc.collect()))


urlpatterns = [path("", hello), path("collect", collect), path("admin/", admin.site.urls)]

application = get_wsgi_application()
"""What is served. It has loaded what the first request would have."""
