"""The version of this package, in the one place that all others read it from."""

__all__ = ["__version__"]

__version__ = "0.1.0"
