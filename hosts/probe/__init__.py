"""Looks at a host on which nothing of ours is installed: preflight sends this package as one script.

Standard library only, and only what Python 3.6 has: a host whose Python is too old has to be told so, not
crashed on. Nothing here raises: what fails is a fact, under ``error``. Looks, writes a small file where it is
asked whether that can be done, removes it, and changes nothing else.
"""
