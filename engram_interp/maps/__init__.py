"""Where does it sit, and is that real? Sizes by matrix and head, nulls, diagnoses, overlaps."""
