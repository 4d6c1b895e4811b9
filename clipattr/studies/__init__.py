"""Studies: one folder per audited model and picture collection; building, opening, planning and cards."""
