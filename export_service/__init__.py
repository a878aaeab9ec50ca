"""The core of the export service: records, the fold, ports, settings. Importing it does nothing."""

__version__ = "0.1.0"
