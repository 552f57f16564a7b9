"""What the system gives and takes: processes, signals, identity, limits."""
