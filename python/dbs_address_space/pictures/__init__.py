"""Pictures of a map: SVG, HTML, notebooks. All draw the rows of `AddressSpace.rows()`."""

__all__: list[str] = []
