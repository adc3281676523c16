"""Polylect's HTTP side: translates each dialect into gRPC calls, with its CORS and cookies. No database."""
