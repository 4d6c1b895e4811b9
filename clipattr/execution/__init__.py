"""Execution: running tasks in this process or with Ray."""
