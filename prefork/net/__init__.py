"""Listeners, and what the kernel tells of them: the accept contract, addresses taken, queues, gates, TLS.

Takes plain options and knows neither workers nor policy. The MASTER makes, gates and ends listeners; a WORKER accepts.
"""
