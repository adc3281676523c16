"""The whole system as an operator and its clients see it: processes, ports and tables.

Imports nothing of ours.
"""
