"""Facts from keyframe packets, without decoding: whether decoding can start there, and whether the size changes.

Needed if only some frames are decoded, as in mp4, mov, mkv, webm and flv. In these containers a length precedes each
NAL unit of H.264 and HEVC.
"""

import re
from collections.abc import Callable, Iterator, Sequence

_VOL = re.compile(rb"\x00\x00\x01[\x20-\x2f].*?(?=\x00\x00\x01)", re.DOTALL)  # MPEG-4: video object layer
_AV1_SEQUENCE = 0x0A  # first byte of an AV1 sequence header whose length follows
_H264_IDR, _H264_SPS, _HEVC_SPS = 5, 7, 33  # types of NAL units
_HEVC_IRAP = range(16, 24)


def can_start_at(codec: str, extradata: bytes, keyframe: bytes) -> bool:
    """Whether decoding can start at this keyframe.

    It cannot in H.264 with gradual refresh (x264's intra-refresh), or if no NAL unit is found.
    """
    types = {kind for kind, _ in _nal_units(codec, extradata, keyframe)}
    if codec == "h264":
        return _H264_IDR in types
    return codec != "hevc" or not types.isdisjoint(_HEVC_IRAP)


def size_headers(codec: str, extradata: bytes, keyframe: bytes) -> set[bytes]:
    """Return the headers in a keyframe's packet that contain the picture size; empty for codecs not in `_HEADERS`."""
    return set(_HEADERS[codec](codec, extradata, keyframe)) if codec in _HEADERS else set()


def announces_another_size(headers: Sequence[set[bytes]], extradata: bytes) -> bool:
    """Whether a keyframe has a header that is neither in the first keyframe nor in the file's extradata.

    `headers` has one set per keyframe. Headers may differ in something other than the size; only decoding can tell.
    """
    return any(header not in headers[0] and header not in extradata for later in headers[1:] for header in later)


def _parameter_sets(codec: str, extradata: bytes, keyframe: bytes) -> Iterator[bytes]:
    wanted = {"h264": _H264_SPS, "hevc": _HEVC_SPS}[codec]
    return (unit for kind, unit in _nal_units(codec, extradata, keyframe) if kind == wanted)


def _mpeg4(codec: str, extradata: bytes, keyframe: bytes) -> Iterator[bytes]:
    return iter(_VOL.findall(keyframe))


def _vp8(codec: str, extradata: bytes, keyframe: bytes) -> Iterator[bytes]:
    yield keyframe[6:10]  # RFC 6386, 9.1: two times 14 bits, after the frame tag and the start code


def _vp9(codec: str, extradata: bytes, keyframe: bytes) -> Iterator[bytes]:
    if len(keyframe) > 8:  # 36 bits, then two times 16 bits, in profile 0; one to four bits later in the others
        yield keyframe[4:8] + bytes([keyframe[8] & 0xF0])


def _av1(codec: str, extradata: bytes, keyframe: bytes) -> Iterator[bytes]:
    if len(keyframe) > 1 and keyframe[0] == _AV1_SEQUENCE:
        yield keyframe[: 2 + keyframe[1]]


_HEADERS: dict[str, Callable[[str, bytes, bytes], Iterator[bytes]]] = {
    "h264": _parameter_sets,
    "hevc": _parameter_sets,
    "mpeg4": _mpeg4,
    "vp8": _vp8,
    "vp9": _vp9,
    "av1": _av1,
    "libdav1d": _av1,
}


def _nal_units(codec: str, extradata: bytes, packet: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (type, unit) of each NAL unit; nothing for other codecs, or if units have start codes, not lengths."""
    at_length = {"h264": 4, "hevc": 21}.get(codec)  # position in avcC, hvcC of the byte with the size of a length
    if at_length is None or len(extradata) <= at_length or extradata[0] != 1:
        return
    length_bytes = 1 + (extradata[at_length] & 3)
    at = 0
    while at + length_bytes < len(packet):
        start = at + length_bytes
        at = start + int.from_bytes(packet[at:start], "big")
        if at > start:
            yield (packet[start] & 0x1F if codec == "h264" else packet[start] >> 1 & 0x3F), packet[start:at]
