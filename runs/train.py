"""Train or evaluate any method: python main.py --config-name=simclr ++optim.lr=2."""

import stable_ssl

if __name__ == "__main__":
    stable_ssl.launch()
