"""Execution: the same work done in this process or by Ray."""
