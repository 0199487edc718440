"""A small server of the requests that obstore makes to Google Cloud Storage (its XML API), as an `ObjectServer`."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from xml.sax.saxutils import escape

from tests.support.buckets import Answer, Asked, Buckets, failed, got, xml
from tests.support.object_server import ObjectServer, running

TOKEN = "test-token"
PAGE = 3  # objects in a listing's page: several pages also for few objects


class Gcs:
    def __init__(self, buckets: Buckets) -> None:
        self.buckets = buckets

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        asked = Asked.of(environ)
        with self.buckets.lock:
            status, headers, body = self.answer(asked)
        start_response(status, list(headers.items()))
        return [] if asked.method == "HEAD" else [body]

    def answer(self, asked: Asked) -> Answer:
        if asked.headers.get("authorization") != f"Bearer {TOKEN}":
            return failed("401 Unauthorized", "AuthenticationRequired", "Authentication required.")
        if asked.bucket not in self.buckets.objects:
            return failed("404 Not Found", "NoSuchBucket", "The specified bucket does not exist.")
        if not asked.key:
            return self.list(asked)
        objects = self.buckets.objects[asked.bucket]
        if asked.method == "POST":
            return self.upload(asked)
        if "uploadId" in asked.query:
            self.buckets.pieces[asked.bucket, asked.query["uploadId"], asked.query["partNumber"]] = asked.body
            return "200 OK", {"ETag": f'"{asked.query["partNumber"]}"', "Content-Length": "0"}, b""
        if asked.method == "PUT":
            if asked.headers.get("x-goog-if-generation-match") == "0" and asked.key in objects:
                return failed("412 Precondition Failed", "PreconditionFailed", "At least one condition did not hold.")
            return "200 OK", self.buckets.put(asked.bucket, asked.key, asked.body).headers(), b""
        if asked.key not in objects:
            return failed("404 Not Found", "NoSuchKey", "The specified key does not exist.")
        if asked.method == "DELETE":
            del objects[asked.key]
            return "204 No Content", {}, b""
        return got(asked, objects[asked.key])

    def upload(self, asked: Asked) -> Answer:
        if "uploads" in asked.query:
            return xml(
                f"<InitiateMultipartUploadResult><UploadId>{next(self.buckets.counter)}</UploadId></InitiateMultipartUploadResult>"
            )
        numbers = re.findall(r"<PartNumber>(\d+)</PartNumber>", asked.body.decode())
        pieces = [self.buckets.pieces.pop((asked.bucket, asked.query["uploadId"], number)) for number in numbers]
        stored = self.buckets.put(asked.bucket, asked.key, b"".join(pieces))
        status, headers, body = xml("<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>")
        return status, {**headers, "x-goog-generation": str(stored.generation)}, body

    def list(self, asked: Asked) -> Answer:
        after = asked.query.get("continuation-token") or asked.query.get("start-after", "")
        keys, folders = self.buckets.below(
            asked.bucket, asked.query.get("prefix", ""), asked.query.get("delimiter", ""), after
        )
        more = len(keys) > PAGE and not folders
        objects = self.buckets.objects[asked.bucket]
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(objects[key].data)}</Size><ETag>x</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for key in (keys[:PAGE] if more else keys)
        )
        entries += "".join(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in folders)
        token = f"<NextContinuationToken>{escape(keys[PAGE - 1])}</NextContinuationToken>" if more else ""
        return xml(
            f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{entries}</ListBucketResult>"
        )


@contextmanager
def gcs_server() -> Iterator[ObjectServer]:
    """A server with the bucket `data`; the environment leads to it, also that of child processes."""
    server = ObjectServer(Gcs(Buckets("data")), "gs")
    with running(server, {"GOOGLE_BASE_URL": server.url, "GOOGLE_BEARER_TOKEN": TOKEN}):
        yield server
