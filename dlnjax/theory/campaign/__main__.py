"""``python -m dlnjax.theory.campaign``."""

import sys

from dlnjax.theory.campaign import main

sys.exit(main())
