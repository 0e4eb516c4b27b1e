"""Version 3.0.0-crash. THE FAULT IS ON PURPOSE: it aborts at its 40th request, as native code with a broken pointer does."""

import itertools
import os

import oip

REQUESTS = itertools.count(1)


class Handler(oip.Handler):
    @staticmethod
    def before_answer():
        if next(REQUESTS) >= 40:
            os.abort()


oip.run(Handler)
