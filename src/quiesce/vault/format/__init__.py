"""What the bytes of a vault mean: keys, packs, segments, manifests, maps.

See docs/explanation/vault-format.md.
"""
