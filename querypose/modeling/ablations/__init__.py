"""The variants that Tables 1 to 3 of the paper compare."""
