"""Released weights and reference numbers in this package's terms."""


def all_checks() -> None:
    """Register the checks of all fixture kinds."""
    from sparse_encoders.checkpoints import reference_focus  # noqa: F401
