"""The package's version, which workers of a cluster compare with that of the flow."""

__version__ = "0.1.0"
