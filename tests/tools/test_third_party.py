"""The list of what is built in follows from the lock file, and no crate asks for a newer Rust than promised."""

from pathlib import Path

from third_party import Crate, document, too_new


def crate(folder: Path, name: str, rust_version: str = "1.0", **texts: str) -> Crate:
    """A crate whose folder has licences."""
    (folder / name).mkdir()
    for licence, text in texts.items():
        (folder / name / f"LICENSE-{licence}").write_text(text)
    return Crate(name, "1.2.3", "MIT OR Apache-2.0", rust_version, folder / name)


def test_a_text_is_there_once_with_all_whose_it_is(tmp_path: Path) -> None:
    same = {"MIT": "Do what you like.\n", "APACHE": "Long."}
    text = document(
        [crate(tmp_path, "one", **same), crate(tmp_path, "two", **same), crate(tmp_path, "three", MIT="Another.")]
    )
    assert text.count("Do what you like.") == 1
    assert "one, two:\n\nDo what you like.\n" in text
    assert "three:\n\nAnother.\n" in text
    assert "Long." not in text


def test_a_crate_that_is_too_new(tmp_path: Path) -> None:
    crates = [crate(tmp_path, "old", "1.88"), crate(tmp_path, "new", "1.100.0")]
    assert too_new(crates, "1.88") == ["new 1.2.3 needs Rust 1.100.0: Cargo.toml promises 1.88"]
