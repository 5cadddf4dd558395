"""What one source says of a design's size and speed, and readers of the tools' reports."""
