"""Records of a run: its folder, its rows, and what a person sees on the terminal."""
