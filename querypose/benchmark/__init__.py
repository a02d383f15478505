"""How long models take, what of, and how far that is from what the machine can do."""
