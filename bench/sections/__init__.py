"""The parts of RESULTS.md, each made of the figures of its tables."""
