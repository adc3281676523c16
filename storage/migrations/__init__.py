"""Migrations. Only `storage.migrations.upgrade` imports Alembic, which costs 0.8 s and 30 MB."""
