"""What plans are written as, and read from."""

__all__: list[str] = []
