"""Netlists of LUTs and short carry chains, and how a graph becomes one."""
