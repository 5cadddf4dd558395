"""Front ends: from a framework's model to the integer graph."""
