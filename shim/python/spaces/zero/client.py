"""The original's reports to its service."""


def startup_report():
    """Does nothing."""
