"""Reference numbers of the released implementations, compared with this package's.

``tools/verify_reference.py`` and the tests run these checks; the package needs none of them.
"""

from importlib import import_module

# each registers the checks of its fixture kinds when it is imported
CHECK_MODULES = ("denoising", "focus", "hybrid", "key_aware", "lite", "model", "salience", "sparse")


def all_checks() -> None:
    """Register the checks of all fixture kinds."""
    for name in CHECK_MODULES:
        import_module(f"{__name__}.{name}")
