"""The storm: a random walk over a live server under constant load, with what must hold after every step.

    scripts/soak 30                  for half an hour
    scripts/soak 1 --seed 4711       begin with that seed: what it did once, it does again

One *episode* is one seed: an arrangement of a server is chosen (`arrangement`), well-behaved clients come at a constant
rate (`crowd`), and step after step something is done to it (`steps`): reloads good and bad, upgrades, kills, freezes,
limits, failing system calls, rude clients (`rude`), stops and starts (`site`). After each the server is held to what it
promises (`truths`). `walk` puts it together.

A seed fixes what is done, not how the machine schedules it: a failure that depends on the moment may take a few runs.
"""
