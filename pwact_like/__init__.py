"""Active learning of interatomic potentials, driven by a daemon on a login node."""

__version__ = "0.1.0"
