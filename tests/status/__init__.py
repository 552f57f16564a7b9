"""What a server tells of itself, through all of its modules:

status: the data, its JSON and text, the sums that outlive workers.
"""
