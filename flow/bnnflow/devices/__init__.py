"""What FPGAs have: parts and their totals, delays, LUT packing."""
