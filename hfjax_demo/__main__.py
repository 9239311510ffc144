"""`python -m hfjax_demo`: see `hfjax_demo.cli`."""

import sys

from hfjax_demo.cli import main

if __name__ == "__main__":
    sys.exit(main())
