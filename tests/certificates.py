"""A certificate authority of the tests' own."""

import subprocess
from pathlib import Path


def make_authority(folder: Path) -> Path:
    """Put ca.pem, and server.pem and server.key for 127.0.0.1 signed by it, into the folder."""
    fresh = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    _openssl(
        folder, "req", "-x509", *fresh, "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.pem"
    )
    _openssl(
        folder,
        *("req", "-x509", *fresh, "-subj", "/CN=server", "-CA", "ca.pem", "-CAkey", "ca.key"),
        *("-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"),
        *("-keyout", "server.key", "-out", "server.pem"),
    )
    return folder


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
