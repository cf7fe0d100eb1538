"""Measure how fast the train data come: python data_profiler.py -cn simclr."""

import sys

from main import main

if __name__ == "__main__":
    sys.argv.insert(1, "mode=profile_data")
    main()
