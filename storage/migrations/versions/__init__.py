"""One module a revision; explicit DDL only, so that a revision does tomorrow what it did today."""
