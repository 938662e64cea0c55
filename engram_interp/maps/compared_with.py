"""What are sizes compared with? The names of the nulls, and how figures call them."""

ANALYTIC, RESAMPLED, SIBLINGS = "analytic", "resampled", "siblings"
NULLS = {ANALYTIC: "its analytic null", RESAMPLED: "random sets of examples", SIBLINGS: "sibling memories"}
