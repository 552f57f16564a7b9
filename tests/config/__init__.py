"""Settings, and by a word of their own:

naming: files that settings name.
"""
