"""Released weights and reference numbers in this package's terms."""

from importlib import import_module

# each registers the checks of its fixture kinds when it is imported
CHECK_MODULES = (
    "reference_denoising",
    "reference_focus",
    "reference_key_aware",
    "reference_lite",
    "reference_model",
    "reference_salience",
    "reference_sparse",
)


def all_checks() -> None:
    """Register the checks of all fixture kinds."""
    for name in CHECK_MODULES:
        import_module(f"{__name__}.{name}")
