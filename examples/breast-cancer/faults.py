"""The programs of the versions that fail on purpose, as train.py writes them beside oip.py."""

CRASH = '''"""Version 3.0.0-crash. THE FAULT IS ON PURPOSE: it aborts at its 40th request, as native code with a broken pointer does."""

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
'''

LEAK = '''"""Version 3.0.0-leak. THE FAULT IS ON PURPOSE: it keeps a megabyte per request for ever, as an unbounded cache does."""

import oip

CACHE = []


class Handler(oip.Handler):
    @staticmethod
    def before_answer():
        CACHE.append(bytearray(b"x" * 1024 * 1024))


oip.run(Handler)
'''

ERRORS = '''"""Version 3.0.0-errors. THE FAULT IS ON PURPOSE: every 20th request fails, as with a resource that is sometimes missing."""

import itertools

import oip

REQUESTS = itertools.count(1)


class Handler(oip.Handler):
    @staticmethod
    def before_answer():
        if next(REQUESTS) % 20 == 0:
            raise RuntimeError("the feature store did not answer")


oip.run(Handler)
'''
