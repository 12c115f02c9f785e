"""``python -m fedmm_cli``: the command ``fedmm`` where its script is not on the path."""

import sys

from fedmm_cli.app import main

sys.exit(main())
