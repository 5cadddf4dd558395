"""What a design costs and how fast it is: facts read from tools, estimates without them, and the report."""
