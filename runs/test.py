"""Evaluate on the test split: python test.py -cn simclr log.load_from=best.ckpt."""

import sys

from main import main

if __name__ == "__main__":
    sys.argv.insert(1, "mode=test")
    main()
