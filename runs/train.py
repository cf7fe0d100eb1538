"""Train a method: another name of main.py."""

from main import main

if __name__ == "__main__":
    main()
