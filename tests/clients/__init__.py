"""Clients that others published, as their users have them, against the whole system.

Imports nothing of ours.
"""
