"""Version 3.0.0-leak. THE FAULT IS ON PURPOSE: it keeps a megabyte per request for ever, as an unbounded cache does."""

import oip

CACHE = []


class Handler(oip.Handler):
    @staticmethod
    def before_answer():
        CACHE.append(bytearray(b"x" * 1024 * 1024))


oip.run(Handler)
