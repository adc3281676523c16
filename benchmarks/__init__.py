"""The bench: the whole system driven from outside over real sockets, beside what bounds it. See README.md."""
