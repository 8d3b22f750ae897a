"""Files: results written whole or not at all, folders locked for one run, and archives read with suspicion."""
