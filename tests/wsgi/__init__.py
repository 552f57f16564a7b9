"""The WSGI server, and by a word of their own:

bodies: wsgi.input, whatever way a body comes.
clients: those that are slow, gone, early or greedy.
combinations: any two settings that say where and how connections come.
keeping: what is lost and closed of kept connections, by the thousand.
keepalive: what is kept, what is closed, and what outlives a worker.
mutations: requests that nobody wrote.
queue_time: for how long a request had waited.
proxies: nginx and HAProxy in front, which keep their connections.
requests: what one becomes: the environ, or a refusal.
responses: what the client gets of an answer.
second_request: what stands behind another, and what is remembered of that one.
threads: several requests at once in each worker, on connections that are kept and on others.
syntax: ways to write a request, each with the section that judges it.
"""
