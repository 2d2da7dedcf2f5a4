"""The formats that plans are written in and read from."""

__all__: list[str] = []
