"""The exact mathematics between a model's float functions and the integer graph, for any front end; NumPy only."""
