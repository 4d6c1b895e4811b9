"""Pixels: change what a picture shows and measure the score, to confirm or contradict a finding. Start at `verify`."""
