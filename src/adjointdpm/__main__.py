"""`python -m adjointdpm`."""

from adjointdpm.cli import main

main()
