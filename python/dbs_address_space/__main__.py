"""`python -m dbs_address_space`: the command `dbs-address-space`."""

from .command_line import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
