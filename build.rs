//! Refuses interpreters that the extension can't serve, by name and before anything is compiled for them.

use std::io::{Write, stdout};

use pyo3_build_config::PythonImplementation;

fn main() -> std::io::Result<()> {
    let implementation = pyo3_build_config::get().implementation();
    if implementation != PythonImplementation::CPython {
        writeln!(
            stdout(),
            "cargo::error=dbs-address-space needs CPython 3.11 or newer, not {implementation}: \
             install it with a CPython interpreter, such as python3 -m pip install dbs-address-space"
        )?;
    }
    writeln!(stdout(), "cargo::rerun-if-changed=build.rs")
}
