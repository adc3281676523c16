"""Polylect's gRPC service: credentials, quotas, meaning, the queue's front, queries and administration."""
