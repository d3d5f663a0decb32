"""The version of the package, which is said here alone."""

__version__ = "0.1.1"
