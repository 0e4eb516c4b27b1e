"""An S3 server with one bucket, that lasts as long as its standard input; says its address."""

import logging
import sys
import threading

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

logging.getLogger("werkzeug").setLevel(logging.ERROR)
moto = DomainDispatcherApplication(create_backend_app)
turn = threading.Lock()


def one_at_a_time(environ, start_response):
    """Two who write one object at once would find moto's file closed under them."""
    with turn:
        return moto(environ, start_response)


server = make_server("127.0.0.1", 0, one_at_a_time, threaded=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
address = "http://{}:{}".format(*server.server_address[:2])
keys = {"aws_access_key_id": "tests", "aws_secret_access_key": "hunter2", "region_name": "us-east-1"}
boto3.client("s3", endpoint_url=address, **keys).create_bucket(Bucket="models")
print(address, flush=True)
sys.stdin.read()
