"""`python -m tests.breaks [NAME ...]`: every deliberate break must be noticed by the test it names."""

import sys

from tests.breaks.harness import main

sys.exit(main(sys.argv[1:]))
