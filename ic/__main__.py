"""`python -m ic`: the same program as `ic.pyz`, from a checkout or an installation."""

import sys

from ic.cli import main

if __name__ == "__main__":
    sys.exit(main.main(sys.argv[1:]))
