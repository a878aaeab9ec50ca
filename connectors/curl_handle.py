"""A libcurl handle and its options, before it is told what to fetch."""

import os
import ssl
from typing import Any

import certifi
import pycurl

from export_service import __version__
from export_service.settings import Download

HEADERS = ["Accept-Encoding: identity"]


def new_handle(settings: Download) -> pycurl.Curl:
    made = pycurl.Curl()
    options: dict[int, Any] = {
        pycurl.NOSIGNAL: 1,
        pycurl.USERAGENT: f"export-service/{__version__}",
        pycurl.HTTPHEADER: HEADERS,
        pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
        pycurl.PROXY: "",  # none from the environment
        pycurl.PATH_AS_IS: 1,
        pycurl.BUFFERSIZE: 512 * 1024,  # a call of ours for each
        pycurl.CONNECTTIMEOUT_MS: round(settings.connect_seconds * 1000),
        pycurl.LOW_SPEED_LIMIT: 1,
        pycurl.LOW_SPEED_TIME: max(1, round(settings.stall_seconds)),
        # The wheel's own OpenSSL does not know where this machine keeps its certificates.
        pycurl.CAINFO: os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile or certifi.where(),
    }
    for option, value in options.items():
        made.setopt(option, value)
    return made


def own_choice() -> dict[int, Any]:
    """Options for hosts that the operator has chosen, as AWS's own clients have them."""
    bundle = os.environ.get("AWS_CA_BUNDLE") or os.environ.get("REQUESTS_CA_BUNDLE")
    chosen: dict[int, Any] = {pycurl.UPLOAD_BUFFERSIZE: 512 * 1024}
    return chosen | ({pycurl.CAINFO: bundle} if bundle else {})
