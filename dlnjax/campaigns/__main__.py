"""``python -m dlnjax.campaigns.checks``."""

import sys

from dlnjax.campaigns.checks import main

sys.exit(main())
