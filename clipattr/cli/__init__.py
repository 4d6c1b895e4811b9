"""Command line: every verb of `clipattr`."""
