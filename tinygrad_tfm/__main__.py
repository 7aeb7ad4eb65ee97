"""`python -m tinygrad_tfm COMMAND`."""

import sys

from .cli import main

sys.exit(main())
