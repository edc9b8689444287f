"""What keeps a vault well: deletion, collection, repacking, verification, a new index."""
