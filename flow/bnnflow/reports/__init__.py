"""Reports: what a design costs, how fast it is and whether it is exact, with the source of every number."""
