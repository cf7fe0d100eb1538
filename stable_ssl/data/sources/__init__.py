"""Where samples come from: folders, tar shards, arrays, other libraries."""
