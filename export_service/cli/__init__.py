"""The command line, `export-service`."""
