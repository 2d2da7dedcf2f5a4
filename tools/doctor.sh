#!/bin/sh
# Says what this machine lacks for a make target, all at once, with the one command that brings it; silent where nothing is missing.
# usage: doctor.sh [--packages] demo|test, with the Python to use in $PYTHON; --packages prints only the packages' names
set -u
only_packages=false
if [ "$1" = --packages ]; then
    only_packages=true
    shift
fi
goal=$1
python=${PYTHON:-python3}
oldest_rust=1.88
complaints=""
packages=""

lacks() { # complaint, Debian packages
    complaints="$complaints
  - $1"
    packages="$packages $2"
}

python_can() { "$python" -c "$1" > /dev/null 2>&1; }

at_least() { # version, oldest
    [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

if ! python_can 'import sys; assert sys.version_info >= (3, 11)'; then
    lacks "Python 3.11 or newer, as $python (PYTHON=... names another)" python3
fi
python_can 'import ensurepip, venv' || lacks "Python's venv" python3-venv
echo 'int main(void) { return 0; }' | cc -x c -o /dev/null - 2> /dev/null || lacks "a C compiler" "gcc libc6-dev"
if [ "$goal" = test ]; then
    python_can 'import os, sysconfig as s; assert os.path.exists(os.path.join(s.get_config_var("LIBDIR"), s.get_config_var("LDLIBRARY")))' ||
        lacks "Python's library, which the Rust tests link" python3-dev
fi

rust=$(rustc --version 2> /dev/null | cut -d ' ' -f 2)
if [ -z "$rust" ] || ! at_least "$rust" $oldest_rust || ! cargo --version > /dev/null 2>&1; then
    # Debian 12 and 13 keep an up-to-date compiler beside their own, for browsers.
    lacks "Rust $oldest_rust or newer (${rust:-none} found); https://rustup.rs has it too" "rustc-web cargo-web"
fi
if [ "$goal" = test ]; then
    cargo fmt --version > /dev/null 2>&1 || lacks "rustfmt" rustfmt-web
    cargo clippy --version > /dev/null 2>&1 || lacks "Clippy" rust-web-clippy
fi

if $only_packages; then
    echo "$packages"
    exit 0
fi
[ -z "$packages" ] && exit 0
sudo=""
[ "$(id -u)" = 0 ] || sudo="sudo "
cat >&2 << EOF
make $goal needs what is not here:$complaints

On Debian, this brings all of it:

    ${sudo}apt-get install --yes --no-install-recommends$packages

EOF
exit 1
