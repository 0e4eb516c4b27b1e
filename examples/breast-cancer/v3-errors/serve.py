"""Version 3.0.0-errors. THE FAULT IS ON PURPOSE: every 20th request fails, as with a resource that is sometimes missing."""

import itertools

import oip

REQUESTS = itertools.count(1)


class Handler(oip.Handler):
    @staticmethod
    def before_answer():
        if next(REQUESTS) % 20 == 0:
            raise RuntimeError("the feature store did not answer")


oip.run(Handler)
