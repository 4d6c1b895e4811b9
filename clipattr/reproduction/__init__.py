"""Reproduction: the claims of a published study, tested on any models and pictures, as tables, figures and verdicts."""
