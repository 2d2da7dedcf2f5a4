"""Colours, found by a search: the edges of any two types differ plainly for every kind of colour blindness."""

from __future__ import annotations

__all__ = ["DARK", "HEAT_DARK", "HEAT_LIGHT", "LIGHT", "NOTEBOOK", "Heat", "Theme"]

Theme = dict[str, tuple[str, str]]
"""An edge and a fill for each look; of `paper` text and background, of `quiet` muted text and lines."""

LIGHT: Theme = {
    "paper": ("#1b1f24", "#ffffff"),
    "quiet": ("#57606a", "#d0d7de"),
    "ram": ("#2560a7", "#dde9f6"),
    "device": ("#a45a13", "#f9ead9"),
    "dax": ("#509a88", "#eaf7f4"),
    "firmware": ("#572539", "#f1e2e8"),
    "reserved": ("#57606a", "#eaeef2"),
    "mixed": ("#7d8590", "#f3f5f7"),
    "added": ("#2a6fc4", "#dceafb"),
    "removed": ("#8a2a06", "#f8e3da"),
    "changed": ("#9a8434", "#f8f1d4"),
}
DARK: Theme = {
    "paper": ("#e6edf3", "#0d1117"),
    "quiet": ("#9aa6b2", "#30363d"),
    "ram": ("#54a0f7", "#142f4f"),
    "device": ("#d7a742", "#3a2d10"),
    "dax": ("#b5eec7", "#1d3f31"),
    "firmware": ("#a3698a", "#3b2233"),
    "reserved": ("#9aa6b2", "#21262d"),
    "mixed": ("#6e7681", "#191e25"),
    "added": ("#54a0f7", "#142f4f"),
    "removed": ("#c8641f", "#43220f"),
    "changed": ("#eade6c", "#3a350f"),
}
NOTEBOOK = {
    "ram": "#3b7ddd",
    "device": "#b0762a",
    "dax": "#459a83",
    "firmware": "#9c5d81",
    "reserved": "#8c959f",
    "mixed": "#8c959f",
}
"""One edge for white and black paper: nobody knows which a notebook has."""

Heat = dict[str, tuple[str, ...]]
"""Colours of the pages that are resident, from none to all, and of those that are dirty, from few to all."""

HEAT_LIGHT: Heat = {
    "resident": ("#eef1f4", "#c3dcee", "#8fc0e0", "#4f9bcb", "#0b66a3"),
    "dirty": ("#f6b871", "#e8923a", "#c76a14", "#8a4200"),
}
HEAT_DARK: Heat = {
    "resident": ("#1c2229", "#1d3f5a", "#2a6792", "#3f95cd", "#9bd3f7"),
    "dirty": ("#a85f10", "#d07f1c", "#f29d35", "#ffcb80"),
}
