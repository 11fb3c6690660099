"""Reference numbers of the released implementations, compared with this package's.

``tools/verify_reference.py`` and the tests run these checks; the package needs none of them.
"""
