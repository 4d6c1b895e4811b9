"""`python -m clipattr.cli`: the command line without the installed script, e.g. under torchrun."""

import sys

from clipattr.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
