"""Formats in which plans are written and read."""

__all__: list[str] = []
