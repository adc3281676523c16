"""Rules of the tree itself, enforced by reading it."""
