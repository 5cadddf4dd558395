"""Sizes and speed without a vendor's tool: by a table, by counting netlists, and by yosys kernel for kernel."""
