"""What a server tells of itself: a model of plain data, the collector that fills it, totals, the text of a page.

The MASTER collects; the commands decode and print. It imports from the supervisor downwards.
"""
