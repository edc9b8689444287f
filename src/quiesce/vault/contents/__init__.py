"""What a vault holds, as one process knows it: the index, and the records of who is at work."""
