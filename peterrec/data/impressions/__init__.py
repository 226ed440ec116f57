"""Impressions: who was shown what, where and when, with what is known of it and what came of it."""

from pathlib import Path

NOTE = "impressions.json"  # what makes a folder one of impressions


def impression_folder(path: Path) -> bool:
    """Whether `path` is a folder of impressions, as `prepare` with a label writes it."""
    return (Path(path) / NOTE).is_file()
