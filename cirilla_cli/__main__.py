"""`python -m cirilla_cli` is `cirilla`."""

from cirilla_cli.cli.app import main

main()
