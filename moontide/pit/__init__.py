"""Point-in-time: what was known at the time of a label, as row pointers first and vectors last."""
