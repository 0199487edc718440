"""Files that ask for gigabytes or hours, each read within limits of time and memory. A program: it limits its memory.

Prints a JSON list of what went wrong: [attack, what].
"""

import json
import os
import resource
import signal
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from bevt_core.dataset.frame_store import FrameStore
from bevt_core.media.errors import MediaError
from bevt_core.media.stills import read_picture
from bevt_core.models.build import SWIN_SIZES, build_classifier
from bevt_core.storage.files import read_record
from bevt_core.tokenizers.description import DESCRIPTION
from bevt_core.tokenizers.loading import load_stored
from bevt_core.untrusted.files import Lines, read_csv, read_json, read_parquet
from bevt_core.weights.model_files import load_weights, save_weights
from schemas.errors import UserError
from schemas.frames import SOURCES_SCHEMA, FrameStoreManifest
from schemas.recipes.loading import load_recipe
from tests.support.builders import make_token_set
from tests.support.parquet_bombs import repeated_text
from trainer.metrics.log import read_metrics
from trainer.recipes import TRAINER_RECIPES

LIMIT_S, LIMIT_BYTES = 2.0, 500 << 20
Attack = Callable[[], object]


class TooSlow(BaseException):
    """The limit of time has passed."""


def recipes(folder: Path) -> dict[str, Attack]:
    laughs = "a: &a [x,x,x,x,x,x,x,x,x]\n"
    for one, other in zip("abcdefgh", "bcdefghi", strict=True):
        laughs += f"{other}: &{other} [{','.join([f'*{one}'] * 9)}]\n"
    texts = {
        "aliases": laughs,
        "merged aliases": "a: &a {x: 1}\n" + "".join(f"<<: [{', '.join(['*a'] * 3000)}]\n" for _ in range(9)),
        "an alias of itself": "a: &a [*a]\n",
        "brackets": "a: " + "[" * 90_000,
        "braces": "{" * 90_000,
        "dashes": "- " * 45_000,
        "50 MB": "title: " + "x" * 50_000_000,
        "a long key": "kind: pretrain\n? " + "k" * 90_000 + "\n: 1\n",
        "a number in base 60": "a: " + "1:" * 45_000 + "1\n",
        "a number of 90 kB": "a: 0x" + "f" * 90_000,
        "base of itself": "base: base-of-itself\n",
        "base /dev/zero": "base: /dev/zero\n",
        "base of a device": "base: device.yaml\n",
        "base of a pipe": "base: pipe.yaml\n",
    }
    os.mkfifo(folder / "pipe.yaml")
    (folder / "device.yaml").symlink_to("/dev/zero")
    for name, text in texts.items():
        (folder / f"{name.replace(' ', '-').replace('/', '-')}.yaml").write_text(text)
    attacks = {
        f"recipe: {name}": lambda path=path: load_recipe(str(path), folder)
        for name in texts
        for path in [folder / f"{name.replace(' ', '-').replace('/', '-')}.yaml"]
    }
    numbers = ("loop.epochs=1e308", "loop.max_steps=-3", "optim.lr=.inf", "streams.video.global_batch=1000000000000")
    for override in (*numbers, f"loop.seed=0x{'f' * 9000}"):
        attacks[f"recipe: {override[:30]}"] = lambda value=override: load_recipe("nano_joint", TRAINER_RECIPES, [value])
    return attacks


def texts(folder: Path) -> dict[str, Attack]:
    data: dict[str, tuple[bytes, Callable[[Path], object]]] = {
        "brackets": (b"[" * 5_000_000, lambda path: read_json(path, list)),
        "empty objects": (b"[" + b"{}," * 12_000_000 + b"{}]", lambda path: read_json(path, list)),
        "a long text": (b'["\xf0\x9f\x98\x80' + b"x" * (90 << 20) + b'"]', lambda path: read_json(path, list)),
        "a long number": (b"[" + b"9" * 10_000_000 + b"]", lambda path: read_json(path, list)),
        "lines": (b"\n" * (80 << 20), lambda path: list(Lines(path))),
        "blanks": (b" " * (40 << 20), lambda path: read_json(path, list)),
        "commas": (b"id\n" + b"," * (80 << 20), lambda path: list(read_csv(path, ["id"]))),
        "a quoted row": (b'id\n"' + b'"\n"' * (20 << 20), lambda path: list(read_csv(path, ["id"]))),
        "a record of 20 MB": (
            b'{"classes": [' + b'"",' * 7_000_000,
            lambda path: read_record(path, FrameStoreManifest),
        ),
        "a record's list": (
            b'{"classes": [' + b'"",' * 1_300_000 + b'""]}',
            lambda path: read_record(path, FrameStoreManifest),
        ),
        "a record's depth": (b'{"a":' * 100_000, lambda path: read_record(path, FrameStoreManifest)),
    }
    attacks: dict[str, Attack] = {}
    for name, (content, read) in data.items():
        path = folder / name.replace(" ", "-")
        path.write_bytes(content)
        attacks[f"text: {name}"] = lambda path=path, read=read: read(path)
    (folder / "metrics.jsonl").write_bytes(b'{"step": 0}\n' + b"[" * 1_000_000 + b"\n")
    return attacks | {"text: a log": lambda: read_metrics(folder)}


def tables(folder: Path) -> dict[str, Attack]:
    repeated_text(folder / "list.parquet")
    store = make_token_set(folder / "set", num_samples=2, frames=1).frames.path
    index = store / "part-00000" / "index.parquet"
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), ["x" * 1_000_000])
    table = pa.concat_tables([pq.read_table(index).slice(0, 1)] * 1000)
    pq.write_table(table.set_column(1, "source", long), index, compression="zstd", store_schema=False)
    return {
        "parquet: a list": lambda: read_parquet(folder / "list.parquet", SOURCES_SCHEMA, "bevt scan"),
        "parquet: an index": lambda: FrameStore(store).index,
    }


def weights(folder: Path) -> dict[str, Attack]:
    def safetensors(name: str, header: bytes, length: int | None = None) -> Attack:
        path = folder / f"{name}.safetensors"
        path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + b"\0" * 8)
        return lambda: load_weights(path)

    def config(name: str, **changes: object) -> Attack:
        model = build_classifier(**SWIN_SIZES["nano"], num_classes=5)
        model.config = model.config | changes
        save_weights(folder / f"{name}.safetensors", model)
        return lambda: load_weights(folder / f"{name}.safetensors")

    tensor = '{"w":{"dtype":"F32","shape":[%s],"data_offsets":[0,8]}}'
    many = ",".join(f'"w{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(400_000))
    old = torch.serialization._legacy_save
    with (folder / "old.pth").open("wb") as file:
        old({"w": torch.zeros(4)}, file, torch.serialization.pickle, 2)
    data = (folder / "old.pth").read_bytes().replace(b"K\x04tq", b"\x8a\x06\0\0\0\0\0\1tq")
    (folder / "old.pth").write_bytes(data)
    (folder / "tokenizer").mkdir()
    card = {"kind": "peco", "input_px": 224, "encoder_sha256": "0" * 64, "decoder_sha256": None, "origin": {}}
    sizes = {"width": 8192, "multipliers": [1, 1, 2, 2, 4], "blocks": 2, "code_dim": 16_384, "vocab_size": 65_536}
    (folder / "tokenizer" / DESCRIPTION).write_text(json.dumps(card | {"sizes": sizes}))
    return {
        "safetensors: header's length": safetensors("a", b"{}", 1 << 62),
        "safetensors: header of 30 MB": safetensors("b", f"{{{many}}}".encode()),
        "safetensors: shape": safetensors("c", (tensor % "1099511627776").encode()),
        "safetensors: shapes": safetensors("d", (tensor % ",".join(["4294967295"] * 9)).encode()),
        "safetensors: depth": safetensors("e", b'{"w":' * 1_000_000),
        "config: width": config("f", embed_dim=1_000_000_000),
        "config: classes": config("g", num_classes=10**12),
        "config: stages": config("h", depths=[0] * 100_000, num_heads=[1] * 100_000),
        "config: blocks": config("i", depths=[10**9, 2, 2]),
        "config: window": config("j", window=[10**5, 10**5, 10**5]),
        "config: kind": config("k", kind="os.system"),
        "pth: storage": lambda: load_weights(folder / "old.pth"),
        "tokenizer: sizes": lambda: load_stored(folder / "tokenizer", "cpu", "float32", None),
    }


def pictures(folder: Path) -> dict[str, Attack]:
    attacks: dict[str, Attack] = {}
    for width, height in ((1, 60_000_000), (60_000_000, 1), (65_000, 65_000)):
        chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
        path = folder / f"{width}x{height}.png"
        path.write_bytes(data + b"\0\0\0\4IDAT" + b"\0" * 8)
        attacks[f"picture: {width} x {height}"] = lambda path=path: read_picture(path)
    return attacks


def trouble(attack: Attack) -> str | None:
    """What is wrong with how an attack ends; None where it is one line for the user."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + LIMIT_BYTES, resource.RLIM_INFINITY))
    begun = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
    try:
        attack()
        return "no error"
    except (UserError, MediaError) as error:
        message, seconds = str(error), time.process_time() - begun
        return (
            None if "\n" not in message and len(message) < 1000 else f"{seconds:.1f} s, the message {message[:300]!r}"
        )
    except TooSlow:
        return f"more than {LIMIT_S:g} s"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what the test looks for
        return f"{type(error).__name__}: {error}"[:300]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def main() -> list[tuple[str, str]]:
    """Make all files, then read them."""
    with tempfile.TemporaryDirectory() as scratch:
        attacks: dict[str, Attack] = {}
        for make in (recipes, texts, tables, weights, pictures):
            (Path(scratch) / make.__name__).mkdir()
            attacks |= make(Path(scratch) / make.__name__)
        found = [(name, trouble(attack)) for name, attack in attacks.items()]
        print(f"{len(found)} attacks", file=sys.stderr)
        return [(name, what) for name, what in found if what is not None]


def _alarm(number: int, frame: FrameType | None) -> None:
    raise TooSlow


if __name__ == "__main__":
    signal.signal(signal.SIGPROF, _alarm)
    print(json.dumps(main()))
