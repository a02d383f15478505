"""The paper's tables as data, ours beside them from the folders of finished runs, and commands for missing runs."""
