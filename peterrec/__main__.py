"""Run `peterrec` as a module."""

from peterrec.cli import main

main()
