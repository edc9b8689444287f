"""A replica of a vault in another store."""
