"""The screen of `top`, drawn by Textual."""

from __future__ import annotations

from typing import ClassVar

from textual.app import App, ComposeResult
from textual.widgets import DataTable, Footer, Input, Static

from dbs_address_space._core import size_text

from .parsing import UsageError
from .top import bytes_a_second, line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.binding import BindingType

    from .samples import Sample

__all__ = ["TopScreen", "run"]

CELLS = 24
SORTS = ("address", "resident", "size", "name")


class TopScreen(App[int]):
    """A line of sums, and a table of regions that can be sorted and filtered; it stands still while it is held."""

    CSS: ClassVar[str] = (
        "#sums { padding: 1 1 0 1; } #filter { display: none; } #filter.shown { display: block; } DataTable { height: 1fr; }"
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        ("q", "quit", "quit"),
        ("s", "sort", "sort"),
        ("slash", "filter", "filter"),
        ("space", "hold", "hold"),
    ]

    def __init__(self, source: str, look: Callable[[], Sample], interval: float) -> None:
        """Takes a function that looks at the program."""
        super().__init__()
        self.title = source
        self.look: Callable[[], Sample] = look
        self.interval: float = interval
        self.sample: Sample | None = None
        self.before: Sample | None = None
        self.order: int = 0
        self.wanted: str = ""
        self.is_held: bool = False

    def compose(self) -> ComposeResult:
        """The parts, from top to bottom."""
        yield Static(id="sums", markup=False)
        yield Input(placeholder="name", id="filter")
        yield DataTable(cursor_type="row")
        yield Footer()

    def on_mount(self) -> None:
        """Begins to look."""
        self.query_one(DataTable).add_columns("address", "region", "size", "resident", "", "rate")
        self.query_one(DataTable).focus()
        self.look_again()
        self.set_interval(self.interval, self.look_again)

    def look_again(self) -> None:
        """Takes a sample; the last one stays when the program has ended."""
        if self.is_held:
            return
        try:
            self.sample, self.before = self.look(), self.sample
        except UsageError as error:
            self.is_held = True
            self.query_one("#sums", Static).update(str(error))
            return
        self.show()

    def show(self) -> None:
        """Draws the last sample."""
        sample = self.sample
        if sample is None:
            return
        self.query_one("#sums", Static).update(f"{self.title}\n{line(sample, self.before, is_ascii=False)}")
        table = self.query_one(DataTable)
        row = table.cursor_row
        table.clear()
        keys = (lambda one: one[0], lambda one: -one[3], lambda one: -one[2], lambda one: one[1])
        for base, name, size, resident in sorted(sample.regions, key=keys[self.order]):
            if self.wanted in name:
                cells = round(CELLS * resident / size)
                shown = "".join(char if char.isprintable() else "?" for char in name)
                bar = "█" * cells + "░" * (CELLS - cells)
                table.add_row(
                    f"{base:#_x}", shown, size_text(size), size_text(resident), bar, self._rate(base, resident)
                )
        table.move_cursor(row=row)

    def _rate(self, base: int, resident: int) -> str:
        """How fast a region's resident bytes become more, or fewer; nothing where they do not."""
        before, now = self.before, self.sample
        if before is None or now is None or now.time <= before.time:
            return ""
        then = next((part for other, *_, part in before.regions if other == base), resident)
        return bytes_a_second((resident - then) / (now.time - before.time)) if resident != then else ""

    def action_sort(self) -> None:
        """Sorts by the next column."""
        self.order = (self.order + 1) % len(SORTS)
        self.notify(f"by {SORTS[self.order]}", timeout=1)
        self.show()

    def action_filter(self) -> None:
        """Asks for a part of a name."""
        self.query_one("#filter").add_class("shown").focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Shows the regions whose name has the text."""
        self.wanted = event.value
        self.query_one("#filter").remove_class("shown")
        self.query_one(DataTable).focus()
        self.show()

    def action_hold(self) -> None:
        """Stands still, or goes on."""
        self.is_held = not self.is_held
        self.notify("held" if self.is_held else "goes on", timeout=1)


def run(source: str, look: Callable[[], Sample], interval: float) -> int:
    """Shows the screen until it is left."""
    TopScreen(source, look, interval).run()
    return 0
