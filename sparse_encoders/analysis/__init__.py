"""What stands above the detectors: pictures, measurements, reports, the demo."""

from importlib.util import find_spec


def require(*packages: str) -> None:
    """Raise a ValueError that says what to install, where a package is not installed."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"{', '.join(missing)} must be installed: pip install 'sparse_encoders[analysis]'"
        )
