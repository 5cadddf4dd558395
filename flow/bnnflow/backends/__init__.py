"""From the integer graph to projects. hls4ml is imported in hls*.py only."""
