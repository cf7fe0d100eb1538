"""The shipped recipes, installed as the package `stable_ssl.recipes`."""
