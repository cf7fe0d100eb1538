"""Measure time and memory of a training step: python model_profiler.py -cn simclr."""

import sys

from main import main

if __name__ == "__main__":
    sys.argv.insert(1, "mode=profile_model")
    main()
