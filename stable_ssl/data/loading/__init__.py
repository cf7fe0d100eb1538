"""Batches: which samples, read by workers, as a function of (seed, epoch, position)."""
