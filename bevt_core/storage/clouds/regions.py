"""The region of an S3 bucket, which S3 tells anyone who asks."""

import urllib.error
import urllib.request


def region_header(url: str, timeout_s: float) -> str | None:
    """The header x-amz-bucket-region in the answer to an unsigned HEAD request; None without an answer."""
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            headers = answer.headers
    except urllib.error.HTTPError as error:  # 301 and 403 have the header, too
        headers = error.headers
    except OSError:
        return None
    region: str | None = headers.get("x-amz-bucket-region")
    return region
