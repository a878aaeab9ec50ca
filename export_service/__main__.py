"""`python -m export_service` is `export-service`."""

from export_service.cli.main import run

run()
