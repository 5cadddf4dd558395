"""The engine: C++ that runs programs on packed bits (engine.cpp), compiled once for a machine and loaded.

It knows arrays and numbers only; `bnnflow.ir.packed` makes programs of graphs.
"""
