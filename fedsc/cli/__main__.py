"""Let ``python -m fedsc.cli`` be ``fedsc``."""

from fedsc.cli import main

main()
