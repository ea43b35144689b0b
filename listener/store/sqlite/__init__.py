"""The driver for SQLite: the state file, its owner, its format and its upkeep."""
