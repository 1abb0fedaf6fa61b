"""The program that PyInstaller freezes. What goes in beside it is said by the hook that graftbox installs."""

import sys

from graftbox.server.frozen import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
