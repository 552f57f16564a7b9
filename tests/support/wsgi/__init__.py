"""What the tests of wsgi share: applications, a server that has them, requests, certificates."""
