"""Tools that use the detectors: measurements, comparisons, reports, the demo."""

from importlib.util import find_spec


def require(*packages: str) -> None:
    """Raise a ValueError with the command for the installation if a package is missing."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"{', '.join(missing)} must be installed: pip install 'sparse_encoders[analysis]'"
        )
