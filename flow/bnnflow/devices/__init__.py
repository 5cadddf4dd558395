"""What FPGAs have: parts and their totals, the cells of mapped netlists, delays, LUT packing."""
