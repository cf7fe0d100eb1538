"""Train or evaluate any method: python main.py --config-name=simclr ++optim.lr=2."""

import stable_ssl


def main() -> None:
    """Run what the command line says."""
    stable_ssl.launch()


if __name__ == "__main__":
    main()
