"""``python -m graftbox.server``."""

import sys

from graftbox.server.main import main

sys.exit(main())
