"""TLS of the HTTP server: a certificate and its key, both from files of the operator's."""

import ssl

from keeper.config import HttpSettings, read_private
from keeper.errors import ConfigError


def server_tls(http: HttpSettings) -> ssl.SSLContext | None:
    """Return what the server shows; None: it speaks plain HTTP.

    Raises ConfigError, with the mend, for files that cannot be used or a key that others can read.
    """
    if http.tls_cert is None or http.tls_key is None:
        return None
    read_private(http.tls_key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # an encrypted key would be asked for at the terminal: it counts as wrong
        context.load_cert_chain(http.tls_cert, http.tls_key, password="")
    except (OSError, ValueError) as error:  # SSLError is an OSError
        msg = (
            f"http.tls_cert {http.tls_cert} with http.tls_key {http.tls_key}: {error}; name a "
            "certificate (PEM, its chain behind it) and its own key, not encrypted"
        )
        raise ConfigError([msg]) from None
    return context
