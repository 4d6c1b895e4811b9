"""Repair: remove an unexpected reliance from a model or a classifier, and measure what changed."""
