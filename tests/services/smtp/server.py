"""A real SMTP server for tests: STARTTLS or TLS from the first byte, AUTH, SIZE, SMTPUTF8; what it accepts lies in a Maildir.

    server.py --port 2525 --folder F [--implicit-tls]

In F it makes `ca.pem`, the authority that clients have to trust, and `mail`, the Maildir. A delivered mail begins with
the envelope: `X-Envelope-From`, and one `X-Envelope-To` for each recipient.

Recipients can make it fail: `answer-452@...` is answered so at RCPT TO, `data-554@...` after the mail's last line.

Not here: relaying, queues, spam. One user: sandpost, password sandpost; who does not log in may send all the same.
"""

import argparse
import mailbox
import os
import re
import ssl
import threading
import time

import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

SIZE_MAX_BYTES = 10 * 1024 * 1024
TEXTS = {4: "4.3.0 try again later, as the recipient asks", 5: "5.1.1 refused, as the recipient asks"}


class Deliver:
    """Says yes to every recipient but those that ask for another answer, and puts mails into the Maildir."""

    def __init__(self, folder):
        self.maildir = mailbox.Maildir(folder, create=True)
        self.lock = threading.Lock()

    async def handle_RCPT(self, server, session, envelope, address, options):
        if answer := answer_of("answer", address):
            return answer
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 ok"

    async def handle_DATA(self, server, session, envelope):
        for recipient in envelope.rcpt_tos:
            if answer := answer_of("data", recipient):
                return answer
        head = f"X-Envelope-From: {envelope.mail_from}\r\n"
        head += "".join(f"X-Envelope-To: {recipient}\r\n" for recipient in envelope.rcpt_tos)
        with self.lock:
            key = self.maildir.add(head.encode() + envelope.original_content)
        return f"250 2.0.0 delivered as {key}"


def answer_of(place, address):
    found = re.match(rf"{place}-([45])(\d\d)@", address)
    return found and f"{found[1]}{found[2]} {TEXTS[int(found[1])]}"


def authenticate(server, session, envelope, mechanism, data):
    good = isinstance(data, LoginPassword) and (data.login, data.password) == (b"sandpost", b"sandpost")
    # Not handled: the library then answers with 535.
    return AuthResult(success=good, handled=False)


def certificate(folder):
    """Kept over restarts, so that a client that trusts it goes on doing so."""
    authority, own = os.path.join(folder, "ca.pem"), os.path.join(folder, "own.pem")
    if not os.path.exists(own):
        made = trustme.CA()
        made.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(own)
        made.cert_pem.write_to_path(authority)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own)
    return context


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--folder", required=True)
    arguments.add_argument("--implicit-tls", action="store_true")
    given = arguments.parse_args()
    context = certificate(given.folder)
    controller = Controller(
        Deliver(os.path.join(given.folder, "mail")),
        hostname="127.0.0.1",
        port=given.port,
        ssl_context=context if given.implicit_tls else None,
        ready_timeout=30,
        tls_context=None if given.implicit_tls else context,
        authenticator=authenticate,
        auth_require_tls=False,
        data_size_limit=SIZE_MAX_BYTES,
        enable_SMTPUTF8=True,
        ident="Sandpost's test server",
        server_hostname="localhost",
    )
    controller.start()
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
