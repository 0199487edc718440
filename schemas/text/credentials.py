"""Masking of credentials in text: keys, tokens, passwords and signed URLs.

Four kinds are recognised: text of a known shape (`AKIA...`, `hf_...`, a private key); the user or query of a URL with a
password or signature; the value after a name such as `api_key` or `HF_TOKEN`; and the value of an environment variable
with such a name, wherever it occurs.
"""

import itertools
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from urllib.parse import quote

MASK = "***"
MIN_SECRET = 8  # shortest value of an environment variable that is masked in text

# Quantifiers have upper bounds: the text is untrusted, and matching must take time proportional to its length.
_SHAPES = re.compile(
    r"""\b(?:AKIA|ASIA)[A-Z0-9]{16}\b           # AWS
    | \bhf_[A-Za-z0-9]{30,100}                  # Hugging Face
    | \bgh[pousr]_[A-Za-z0-9]{30,255} | \bgithub_pat_\w{30,255} | \bglpat-[\w-]{20,100}
    | \bwandb_v1_\w{20,200}                     # Weights & Biases; older keys have no recognisable shape
    | \bxox[abeprs]-[\w-]{10,200} | \bAIza[\w-]{35}\b | \bsk-(?=[\w-]{0,40}\d)[\w-]{20,200}
    | \beyJ[\w-]{8,500}\.[\w-]{8,2000}\.[\w-]{8,500}  # JSON web token
    | -----BEGIN[ ][A-Z ]{0,30}PRIVATE[ ]KEY-----(?:[^-]|-(?!----)){0,8000}(?:-----END[ ][A-Z ]{0,30}KEY-----)?
    | (?i:\bbearer\s{1,4})[\w.~+/=-]{12,4000}
    | (?i:\bauthorization["']?\s{0,4}[:=]\s{0,4})(?:\w{1,20}\s{1,4})?[^\s,;'"]{8,4000}
    """,
    re.VERBOSE,
)
# `scheme://user:password@`, or in a path `scheme:/...`; a colon before a number at the end of the host is a port's
_USER = re.compile(r"""(?:(?<=://)|(?<=\w:/)(?!/))[^\s/?#'"@:]{0,256}:(?!\d{1,5}(?:[/?#\s'"]|$))[^\s'"]{1,512}@""")
_TOKEN_USER = re.compile(r"""(?<=://)[^\s/?#'"@:*]{16,256}@""")  # a token in place of the user name
_QUERY = re.compile(r"""(?<=\?)[^\s"'<>]+""")  # of a URL; masked if it matches _SIGNING
_SIGNING = re.compile(
    r"(?:^|[&;#])(?:x-(?:amz|goog)-(?:signature|credential|security-token)|signature|sig|awsaccesskeyid|googleaccessid"
    r"|key-pair-id|[\w-]{0,40}token|api[_-]?key|password|secret|auth)=",
    re.IGNORECASE,
)
_PARAMETER = re.compile(r"(?i)(\b(?:x-(?:amz|goog)-(?:signature|credential|security-token))=)[^\s&;\"'<>]+")

_NAME = re.compile(r"""(?<![\w.-])([A-Za-z_-][\w.-]{1,79})(["']?\s{0,4}[=:]\s{0,4}[\[({]?\s{0,4})""")
_VALUE = re.compile(r"""(["'])(.{0,4000}?)\1|()([^\s,;&"'\])}]{1,4000})""", re.DOTALL)
_OPTION = re.compile(r"(?<![\w.-])(--[A-Za-z][\w-]{1,79} )([^\s-]\S{0,4000})")  # `--name value`
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")  # between the words of camelCase
# any of these words in a name: a credential
_CREDENTIAL_WORDS = {"password", "passwd", "passphrase", "secret", "secrets", "credential", "credentials", "apikey"}
_CREDENTIAL_WORDS |= {"accesskey", "secretkey", "privatekey", "authtoken", "accesstoken"}
# one of these words before `key`: a credential
_BEFORE_KEY = {"api", "access", "secret", "private", "auth", "account", "service", "shared", "storage", "master", "sas"}
_BEFORE_KEY |= {"encryption", "signing", "license", "ssh", "aws", "azure", "openai", "wandb", "hf", "session"}
# one of these words before `token`: a token of a model, not a credential
_BEFORE_TOKEN = {"mask", "cls", "class", "pad", "unk", "eos", "bos", "sep", "image", "video", "text", "first", "last"}
_HARMLESS = frozenset({"true", "false", "yes", "no", "none", "null", "on", "off", "auto", MASK})
_NUMBER = re.compile(r"[+-]?\d*\.?\d+(?:[eE][+-]?\d+)?")
_AWS_SECRET = re.compile(r"[A-Za-z0-9/+=]{40}")
# Azure's keys, which may begin with /
_BASE64 = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*[0-9+])[A-Za-z0-9/+]{32,}={1,2}")


def masked(text: str) -> str:
    """Return `text` with MASK in place of everything that looks like a credential."""
    for secret in _of_environment():
        text = text.replace(secret, MASK)
    return _OPTION.sub(_option, _without_named(_without_shapes(text)))


def masked_command(words: Sequence[str]) -> str:
    """Return a command line, quoted for a shell, with the values of options such as `--api-key` masked as well."""
    shown, hide_next = [], False
    for word in words:
        name, equals, value = word.partition("=")
        if hide_next and not word.startswith("-") and _is_secret(word):
            shown.append(MASK)
        elif equals and is_credential(name) and _is_secret(value):
            shown.append(f"{name}={MASK}")
        else:
            shown.append(masked(word))
        hide_next = word.startswith("-") and not equals and is_credential(word)
    return " ".join(shlex.quote(word) if word != MASK else MASK for word in shown)


def holds_credentials(text: str) -> bool:
    """Return whether `text` contains a credential that is recognised by its shape, without a name."""
    return _without_shapes(text) != text


def is_credential(name: str) -> bool:
    """Return whether the value of an option, key or environment variable of this name is a credential.

    `--tokens`, `tokenizer`, `mask_token` and `seed-key` are not names of credentials.
    """
    words = [word.lower() for part in re.split(r"[\W_]+", name) for word in _CAMEL.split(part) if word]
    if _CREDENTIAL_WORDS & set(words):
        return True
    if words[-1:] == ["token"] and not _BEFORE_TOKEN & set(words[-2:-1]):
        return True
    if words[-1:] == ["pwd"] and len(words) > 1:  # PWD itself is the working folder
        return True
    return any(word == "key" and before in _BEFORE_KEY for before, word in itertools.pairwise(words))


def _without_shapes(text: str) -> str:
    text = _TOKEN_USER.sub(f"{MASK}@", _USER.sub(f"{MASK}@", text))
    text = _QUERY.sub(lambda found: MASK if _SIGNING.search(found[0]) else found[0], text)
    return _SHAPES.sub(MASK, _PARAMETER.sub(rf"\g<1>{MASK}", text))


def _without_named(text: str) -> str:
    """`text` with masked values in `name=value`, `name: value` and `"name": "value"` if the name is a credential's."""
    pieces, end = [], 0
    while found := _NAME.search(text, end):
        pieces.append(text[end : found.end()])
        end = found.end()
        value = _VALUE.match(text, end) if is_credential(found[1]) else None
        if value is None:
            continue
        quotes, inner = (value[1], value[2]) if value[1] else ("", value[4])
        is_prose = ":" in found[2] and not quotes and not re.search(r"\d", inner)  # `password: expected a string`
        if not is_prose and _is_secret(inner):
            pieces.append(quotes + MASK + quotes)
            end = value.end()
    return "".join([*pieces, text[end:]])


def _option(found: re.Match[str]) -> str:
    option, value = found.groups()
    return option + MASK if is_credential(option) and _is_secret(value.strip("\"'")) else found[0]


def _is_secret(value: str) -> bool:
    """Whether a value is a secret itself: not the path of a file with the secret, a number or a `$NAME`."""
    if not value or value.lower() in _HARMLESS or _NUMBER.fullmatch(value) or value.startswith("$"):
        return False
    return bool(_AWS_SECRET.fullmatch(value) or _BASE64.fullmatch(value)) or not (
        value.startswith(("/", "./", "../", "~")) or "://" in value
    )


def _of_environment() -> Iterator[str]:
    """The credentials among this process's environment variables, verbatim and URL-quoted."""
    for name, value in os.environ.items():
        if len(value) >= MIN_SECRET and is_credential(name) and _is_secret(value):
            yield value
            yield quote(value, safe="")
