"""From the bytes of an image, or what a dataset returns for one, to a tensor."""
