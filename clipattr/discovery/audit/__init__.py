"""Audit: which reliances of a model are unexpected, with causal evidence. Start at `run.audit`."""
