"""Many files listed once, in an index that all processes map."""
