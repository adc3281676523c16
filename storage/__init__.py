"""Polylect's Postgres: schema, migrations, queue, the worker's writes, and queries."""
