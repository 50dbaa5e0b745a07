"""A stand-in for `flower-superlink`: it answers every call of the Fleet API with an empty message, at once.

python superlink.py PORT CERTIFICATE KEY
"""

import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FleetApi(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", "0")))
        self.send_response(200)
        self.send_header("content-type", "application/protobuf")
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"\x08\x01")  # field 1 is true, or 1: a heartbeat's success

    def log_message(self, *words: object) -> None:
        pass


if __name__ == "__main__":
    port, certificate, key = sys.argv[1:]
    server = ThreadingHTTPServer(("127.0.0.1", int(port)), FleetApi)
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trust.load_cert_chain(certificate, key)
    server.socket = trust.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()
