"""Facts: what one source says of the size and speed of a design. Readers of reports, and what a project keeps."""
