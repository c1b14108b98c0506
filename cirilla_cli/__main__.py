"""`python -m cirilla_cli` is `cirilla`."""

from cirilla_cli.cli.start import main

if __name__ == "__main__":  # worker processes import this file under another name
    main()
