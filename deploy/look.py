"""What a node sees of its server before it starts: whether it answers, by whose certificate, and at what time."""

import http.client
import ssl
import time
from email.utils import parsedate_to_datetime
from pathlib import Path

from .clock import TIME_HEADER, is_in_time, out_of_time
from .federation import split_address

LOOK_SECONDS = 5.0

WRONG_TIME = (9, 10)  # OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED
NO_CHECK_TIME = 0x200000  # its X509_V_FLAG_NO_CHECK_TIME


def look(server: str, authority: Path) -> str:
    """What is wrong with the server at HOST:PORT, or with the clock here; empty if nothing is."""
    trust = ssl.create_default_context(cafile=str(authority))
    try:
        ahead = _ahead(server, trust)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in WRONG_TIME:
            return _about_time(server, authority, error)
        return (
            f"the server at {server} shows a certificate that {authority} does not vouch for ({error.verify_message}): "
            "is this the folder of another federation, or the server's address none that `init --host` was given?"
        )
    except (OSError, http.client.HTTPException) as error:
        said = getattr(error, "strerror", None) or error
        return f"no server answers at {server} ({said}); the node tries on. Is `deploy server` running?"
    return "" if is_in_time(2 * ahead) else out_of_time(ahead)  # a clock that is half as wrong as can be soon is more


def _about_time(server: str, authority: Path, error: ssl.SSLCertVerificationError) -> str:
    """A certificate of no other fault than its dates: does the clock here differ from the server's?"""
    trust = ssl.create_default_context(cafile=str(authority))
    trust.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME)
    try:
        ahead = _ahead(server, trust)
    except (OSError, http.client.HTTPException):
        ahead = 0.0
    if not is_in_time(ahead):
        return out_of_time(ahead)
    return f"the certificate of the server at {server} is out of date ({error.verify_message}): make a new one there"


def _ahead(server: str, trust: ssl.SSLContext) -> float:
    """Seconds by which the clock here is ahead of the server's, known to half a round trip."""
    host, port = split_address(server)
    link = http.client.HTTPSConnection(host, port, timeout=LOOK_SECONDS, context=trust)
    try:
        link.connect()
        asked = time.time()
        link.request("GET", "/")  # answered with 404, and the time
        reply = link.getresponse()
        answered = time.time()
        reply.read()
        exact, whole = reply.getheader(TIME_HEADER), reply.getheader("date")  # a bare SuperLink says the second only
        if exact is None and whole is None:
            return 0.0
        there = float(exact) if exact is not None else parsedate_to_datetime(str(whole)).timestamp() + 0.5
        return (asked + answered) / 2 - there
    finally:
        link.close()
