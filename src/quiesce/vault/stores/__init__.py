"""Where a vault lies: immutable objects by key, in a folder or in a bucket."""
